"""A JSON document: one array of objects, or objects one after another, cut into elements while it streams.

Only brackets and strings are followed here; each element is then judged by the same strict parser as a JSONL line, so a
broken element is set aside and the next is read. (An event parser such as ijson stops at the first fault.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.data.flaws import EXCERPT_CHARS, Flaw
from core.data.formats.stream import BOM, LONGEST_SKIPPED_BYTES, Reading, Torn
from core.data.formats.text import decode, too_long
from core.data.parsing import parse_record
from core.data.source import Line, Source

# possessive, so that a string that is never closed is looked at once; group 1 is empty where the chunk ends in a string
_TOKEN = re.compile(rb'[{}\[\],]|"[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.S)
_STRING_END = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.S)
_OPENING = b"{["
_CLOSING = b"}]"


@dataclass
class _Element:
    """The bytes since the last cut: the first ones up to the limit, and how many they are in all."""

    limit: int
    start: int = 0
    kept: bytearray = field(default_factory=bytearray)
    length: int = 0

    def add(self, piece: bytes) -> None:
        self.kept += piece[: max(0, self.limit + 1 - len(self.kept))]
        self.length += len(piece)
        if self.length > LONGEST_SKIPPED_BYTES:
            raise Torn(f"one element has > {LONGEST_SKIPPED_BYTES} bytes")

    def next(self, after: int) -> None:
        """Begin anew, `after` bytes behind the present end."""
        self.start += self.length + after
        self.kept, self.length = bytearray(), 0


class _Cutter:
    """Follows brackets and strings through chunks of bytes and yields each element's bytes when it is whole."""

    def __init__(self, limit: int) -> None:
        self.element = _Element(limit)
        self.in_array: bool | None = None
        self.closed = False
        self._depth = 0
        self._in_string = False
        self._carry = b""

    def feed(self, chunk: bytes) -> Iterator[_Element]:
        """Yield the elements that end in a chunk; each is valid until the next is asked for."""
        data, self._carry = self._carry + chunk, b""
        done = self._begin(data)
        for token in self._tokens(data, done):
            if self.closed:
                break
            cut = self._follow(data[token.start()], token.start())
            if cut is not None:
                end, skip = cut
                self.element.add(data[done:end])
                yield self.element
                self.element.next(skip)
                done = end + skip
        self.element.add(data[done : len(data) - len(self._carry)])

    def _begin(self, data: bytes) -> int:
        """Find out at the first byte whether the document is an array, and step into it."""
        first = len(data) - len(data.lstrip())
        if self.in_array is not None or first == len(data):
            return 0
        self.in_array = data[first] == b"["[0]
        if not self.in_array:
            return 0
        self._depth = 1
        self.element.next(first + 1)
        return first + 1

    def _tokens(self, data: bytes, begin: int) -> Iterator[re.Match[bytes]]:
        """Yield brackets and commas; strings are stepped over, also across chunks."""
        if self._in_string:
            rest = _STRING_END.match(data)
            begin = self._after_string(data, rest) if rest else begin
        if not self._in_string:
            for token in _TOKEN.finditer(data, begin):
                if token.group(1) is None:
                    yield token
                elif not token.group(1):
                    self._after_string(data, token)

    def _after_string(self, data: bytes, found: re.Match[bytes]) -> int:
        self._in_string = not found.group(1)
        if self._in_string:
            self._carry = data[found.end() :]  # a backslash whose character is in the next chunk
        return found.end()

    def _follow(self, char: int, place: int) -> tuple[int, int] | None:
        """Return where the element ends and how many bytes to leave out behind it, or None when it goes on."""
        if char in _OPENING:
            self._depth += 1
            return None
        if char in _CLOSING:
            self._depth = max(0, self._depth - 1)
            if self._depth:
                return None
            self.closed = bool(self.in_array)
            return (place, 1) if self.in_array else (place + 1, 0)
        return (place, 1) if self.in_array and self._depth == 1 else None


def read(source: Source, reading: Reading, limit: int) -> Iterator[Line]:
    """Yield every element of an array, or every object of a document that is none; where it ends amiss, a flaw."""
    cutter, number = _Cutter(limit), 0
    mark = len(BOM) if reading.head(len(BOM)).startswith(BOM) else 0
    for chunk in reading.chunks():
        piece = chunk[mark:] if cutter.in_array is None else chunk
        cutter.element.start += mark
        mark = 0
        for element in cutter.feed(piece):
            empty_array = cutter.closed and number == 0 and not element.kept.strip()
            if not empty_array:
                number += 1
                yield _line(source, reading, number, element)
    if flaw := _amiss(cutter, source.name, number + 1):
        yield Line(f"{source.name}:{number + 1}", flaw, reading.end_byte(cutter.element.start + cutter.element.length))


def _line(source: Source, reading: Reading, number: int, element: _Element) -> Line:
    where, end = f"{source.name}:{number}", reading.end_byte(element.start + element.length)
    if element.length > element.limit:
        return Line(where, too_long(bytes(element.kept), element.limit, "element"), end)
    return Line(where, decode(bytes(element.kept), where, element.start).strip(), end)


def _amiss(cutter: _Cutter, name: str, number: int) -> Flaw | None:
    """Return what is wrong with the end of a document: it is not there, or something stands behind it."""
    element = cutter.element
    rest = bytes(element.kept).strip()
    excerpt = rest[: 4 * EXCERPT_CHARS].decode(errors="replace")
    if cutter.closed:
        return Flaw("json-behind-end", None, excerpt, "something stands behind the closed array") if rest else None
    if cutter.in_array:
        return Flaw(
            "json-unclosed", None, excerpt, "the file ends before the array is closed; its last element is not used"
        )
    if not rest:
        return None
    if element.length > element.limit:
        return too_long(bytes(element.kept), element.limit, "element")
    found = parse_record(decode(rest, f"{name}:{number}", element.start))
    return found if isinstance(found, Flaw) else Flaw("json-broken", None, excerpt, "no JSON: the object is not closed")
