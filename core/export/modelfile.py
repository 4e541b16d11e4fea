"""Ollama's Modelfile of a GGUF file: where the weights lie, the chat template in Ollama's own language, where a turn ends."""

from __future__ import annotations

from core.export.chat_format import ChatFormat

_QUOTES = '"""'
_NOT_IN_A_TEMPLATE = ("{{", "}}", _QUOTES)


def modelfile(gguf: str, chat: ChatFormat, adapter: str | None = None) -> str | None:
    """Return the Modelfile of a file beside it, with an adapter's file where there is one; None when the chat template holds what its language would read as its own.

    Source of the language: https://github.com/ollama/ollama/blob/main/docs/template.md and modelfile.md.
    """
    if any(mark in text for text in _texts(chat) for mark in _NOT_IN_A_TEMPLATE) or '"' in chat.end_of_turn:
        return None
    template = _template(chat)
    stop = f'PARAMETER stop "{chat.end_of_turn}"\n' if chat.end_of_turn else ""
    added = f"ADAPTER ./{adapter}\n" if adapter else ""
    return f"FROM ./{gguf}\n{added}TEMPLATE {_QUOTES}{template}{_QUOTES}\n{stop}"


def _template(chat: ChatFormat) -> str:
    head = chat.opening
    if chat.system is not None:
        system = f"{chat.system.before}{{{{ .System }}}}{chat.system.after}"
        head = f"{{{{ if .System }}}}{system}{{{{ else }}}}{chat.opening}{{{{ end }}}}"
    user = f"{chat.user.before}{{{{ .Content }}}}{chat.user.after}"
    assistant = f"{chat.assistant.before}{{{{ .Content }}}}{chat.assistant.after}"
    turns = f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}'
    return f"{head}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{chat.answer}"


def _texts(chat: ChatFormat) -> list[str]:
    around = [place for place in (chat.system, chat.user, chat.assistant) if place is not None]
    return [
        chat.opening,
        chat.answer,
        chat.end_of_turn,
        *(text for place in around for text in (place.before, place.after)),
    ]
