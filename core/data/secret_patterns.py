"""What keys, tokens and passwords look like: the prefixes their issuers publish, matched in one linear pass."""

from __future__ import annotations

from collections.abc import Iterator

from core.data.linear import compiled

_KNOWN = (
    r"\b(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}\b",  # AWS access key
    r"\bgh[pousr]_[A-Za-z0-9_]{36,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{36,}",
    r"\bgl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[A-Za-z0-9_-]{20,}",  # GitLab
    r"\bsk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic
    r"\bxox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}",  # Slack
    r"\bhooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"\bhf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"\bnpm_[A-Za-z0-9]{36}",
    r":_authToken=[A-Za-z0-9_-]{8,}",  # npm's older ones
    r"\bpypi-AgE[A-Za-z0-9_-]{50,}",
    r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    r"\b\d{8,10}:[A-Za-z0-9_-]{35}",  # Telegram
    r"\b(?:AC|SK)[0-9a-f]{32}\b",  # Twilio
    r"\bAccountKey=[A-Za-z0-9+/=]{80,}",  # Azure storage
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",  # JSON web token
)
_TOKEN = compiled("|".join(_KNOWN))
_KEY_BEGIN = compiled(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = compiled(r"^(?:\s+[A-Za-z0-9+/=]{8,})*")
_KEY_END = compiled(r"^-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_ASSIGNED = compiled(
    r"(?i)(?:password|passwd|\bpwd|mot de passe|api[_ -]?key|clé d['’]api|secret(?:[_ -]access)?(?:[_ -]key)?|token)[\"']?\s*(?:[:=]|is\b|est\b)\s*[\"'«]?\s*"
    r"([^\s\"',;<>«»]{8,128})|://[^\s/:@<>]{1,64}:([^\s/@<>]{1,128})@"
)


def secrets_in(text: str) -> Iterator[tuple[int, int]]:
    """Yield where known tokens, private keys, and passwords that are named as such stand in a text."""
    for found in _TOKEN.finditer(text):
        yield found.span()
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    if ":" in text or "=" in text or " is " in text or " est " in text:
        for found in _ASSIGNED.finditer(text):
            group = 1 if found.span(1)[0] >= 0 else 2
            if group == 2 or _is_mixed(found.group(1)):
                yield found.span(group)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """Yield blocks from their first line to their last, and what is there of one whose last line was cut off."""
    begins = [found.span() for found in _KEY_BEGIN.finditer(text)]
    ends = [*(start for start, _ in begins[1:]), len(text)][: len(begins)]
    for (start, body), limit in zip(begins, ends, strict=True):
        last = text.find("-----END ", body, limit)
        closing = _KEY_END.search(text[last : last + 64]) if last >= 0 else None
        if closing:
            yield start, last + closing.span()[1]
        else:
            inside = _KEY_BODY.search(text[body:limit])
            yield start, body + (inside.span()[1] if inside else 0)


def _is_mixed(value: str) -> bool:
    """Say whether a value is more than a word: it has letters and digits."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))
