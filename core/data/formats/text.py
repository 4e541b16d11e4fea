"""Bytes to text: UTF-8, or an error or a flaw that says where it is not, and whether the file is UTF-16."""

from __future__ import annotations

from core.data.flaws import EXCERPT_CHARS, Flaw
from core.errors import NotUtf8

_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def decode(raw: bytes, where: str, start: int) -> str:
    """Return the text of a line that starts at byte `start` of the file; NotUtf8 names line and byte."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(
            f"{where} is not UTF-8 at byte {error.start + 1} of the line, byte {start + error.start + 1} of the file "
            f"(0x{raw[error.start]:02x})",
            remedy="Save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8 OLD > NEW`.",
        ) from error


def decode_line(raw: bytes, start: int) -> str | Flaw:
    """Return the text of a line that is a record of its own, or a flaw that names line and byte."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        first = max(0, error.start - EXCERPT_CHARS // 2)
        reason = (
            f"not UTF-8 at byte {error.start + 1} of the line, byte {start + error.start + 1} of the file "
            f"(0x{raw[error.start]:02x})"
        )
        return Flaw("not-utf8", None, raw[first : first + EXCERPT_CHARS].decode(errors="replace"), reason)


def refuse_wide(name: str, head: bytes) -> None:
    """Raise NotUtf8 when the first bytes are UTF-16 or UTF-32, with or without a byte-order mark."""
    marked = next((coding for mark, coding in _MARKS if head.startswith(mark)), None)
    zeros = tuple(byte == 0 for byte in head[:4])
    coding = marked or ("UTF-16" if zeros in {(False, True) * 2, (True, False) * 2} else None)
    if coding:
        place = 1 if marked else zeros.index(True) + 1
        raise NotUtf8(
            f"{name}:1 is not UTF-8 at byte {place} of the line, byte {place} of the file (0x{head[place - 1]:02x}): "
            f"the file is {coding}",
            remedy=f"Save the file as UTF-8, for example with `iconv -f {coding} -t UTF-8 OLD > NEW`.",
        )


def too_long(raw: bytes, limit: int, what: str = "line") -> Flaw:
    """Return the flaw of a record of which only the first bytes were kept."""
    return Flaw("line-too-long", None, raw[: 4 * EXCERPT_CHARS].decode(errors="replace"), f"the {what} has > {limit} bytes")
