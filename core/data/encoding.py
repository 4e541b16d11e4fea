"""Texts whose characters went wrong: mojibake by ftfy's heuristic, lost characters, control characters."""

from __future__ import annotations

import html
import re

from ftfy import fix_encoding
from ftfy.badness import badness, is_bad

# ftfy's heuristic matches sequences of at most five characters, none of which is made of these alone (a test compares).
_HARMLESS = "\x00-\x7fàáâäçèéêëìíîïñòóôöùúûü\u00a0–—…’"
_SUSPECT = re.compile(f"[^{_HARMLESS}]")
_HARMLESS_RUN = re.compile(f"([{_HARMLESS}]{{5}})[{_HARMLESS}]{{1,4096}}([{_HARMLESS}]{{5}})")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\uffff]")
_HOPELESS_CHARS = 8  # a text with one bad sequence in so many characters is mojibake even where ftfy cannot mend it


def is_suspect(text: str) -> bool:
    """Say what `ftfy.badness.is_bad` says, about ten times faster on text with ordinary accents."""
    if text.isascii() or not _SUSPECT.search(text):
        return False
    return is_bad(_HARMLESS_RUN.sub(r"\1\2", text))


def mojibake_in(text: str) -> str | None:
    """Return the text as it was meant, the text itself when it is beyond mending, None when nothing is wrong."""
    if "&" in text and not text.isascii():
        text = html.unescape(text)
    if not is_suspect(text):
        return None
    mended = fix_encoding(text)
    if mended != text or badness(text) * _HOPELESS_CHARS >= len(text):
        return mended
    return None


def control_character_in(text: str) -> int | None:
    """Return the position of the first control, direction or non-character, or lost character U+FFFD; None without one."""
    found = _CONTROL.search(text)
    return found.start() if found else None
