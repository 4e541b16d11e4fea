"""A chat template taken apart into what stands before and after each role's words, for programs that read no Jinja."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from core.contract import Contract


class Render(Protocol):
    """Renders messages by a chat template; `answering` adds the words that begin an answer. ValueError when it refuses."""

    def __call__(self, messages: Sequence[Mapping[str, str]], *, answering: bool) -> str:
        """Return the text."""
        ...


_SYSTEM, _USER, _ASSISTANT, _NEXT = "\x01system\x01", "\x01user\x01", "\x01assistant\x01", "\x01next\x01"


class Around(Contract):
    """What a template writes before and after a role's words."""

    before: str
    after: str


class ChatFormat(Contract):
    """A chat template as pieces; `opening` stands at the head of a chat without a system message.

    `system` is None where the template knows no such role; `answer` begins the answer, `end_of_turn` ends it.
    """

    opening: str
    system: Around | None
    user: Around
    assistant: Around
    answer: str
    end_of_turn: str

    def rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return what the pieces make of messages that end with the user's."""
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        text = "" if messages[0]["role"] == "system" else self.opening
        for message in messages:
            if (place := around[message["role"]]) is not None:
                text += place.before + message["content"] + place.after
        return text + self.answer


def chat_format(render: Render) -> ChatFormat | None:
    """Take a chat template apart; None when its pieces do not make the same text again, with three turns and with a system."""
    chat = [_said("user", _USER), _said("assistant", _ASSISTANT), _said("user", _NEXT)]
    try:
        whole, begun = render(chat, answering=False), render(chat, answering=True)
        ended = render(chat[:2], answering=False)
        opened = render(chat[:1], answering=False)
    except ValueError:
        return None
    if not all(whole.count(mark) == 1 for mark in (_USER, _ASSISTANT, _NEXT)) or not begun.startswith(whole):
        return None
    head, _, rest = whole.partition(_USER)
    between, _, rest = rest.partition(_ASSISTANT)
    turned, _, after_user = rest.partition(_NEXT)
    end_of_turn = ended.partition(_ASSISTANT)[2]
    before_user = turned.removeprefix(ended.partition(_ASSISTANT)[2])
    if not head.endswith(before_user):
        before_user = _last_shared(head, turned)
    found = ChatFormat(
        opening=head.removesuffix(before_user),
        system=_system(render, before_user),
        user=Around(before=before_user, after=after_user),
        assistant=Around(before=between.removeprefix(after_user), after=turned.removesuffix(before_user)),
        answer=begun.removeprefix(whole),
        end_of_turn=end_of_turn.strip(),
    )
    return found if opened.startswith(head) and _is_the_same(found, render) else None


def _system(render: Render, before_user: str) -> Around | None:
    try:
        text = render([_said("system", _SYSTEM), _said("user", _USER)], answering=False)
    except ValueError:
        return None
    before, mark, rest = text.partition(_SYSTEM)
    after = rest.partition(_USER)[0]
    if not mark or not after.endswith(before_user):
        return None
    return Around(before=before, after=after.removesuffix(before_user))


def _last_shared(head: str, turned: str) -> str:
    """Return the longest text both end with: what stands before a user's words at the head and later on."""
    size = 0
    while size < min(len(head), len(turned)) and head[-1 - size] == turned[-1 - size]:
        size += 1
    return head[len(head) - size :]


def _is_the_same(found: ChatFormat, render: Render) -> bool:
    turns = [_said("user", "One?"), _said("assistant", "Two."), _said("user", "Three?")]
    chats = [turns[:1], turns, *([[_said("system", "Be brief."), *turns]] if found.system else [])]
    return all(found.rendered(chat) == render(chat, answering=True) for chat in chats)


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
