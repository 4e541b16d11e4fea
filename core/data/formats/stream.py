"""A source's bytes as a stream: hashed as they lie, unpacked, read in bounded pieces. What the bytes mean is not known here."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from core.data.source import Packing, Source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_PACKED_CHUNK_BYTES = 1 << 16
LONGEST_SKIPPED_BYTES = 1 << 30  # a line is skipped up to here; what goes on beyond is no text but a decompression bomb

_BEHIND = "something that is not packed stands behind the packed bytes"
_NO_FRAME = ("incorrect header check", "unknown compression method", "Unknown frame descriptor")  # zlib's and zstd's words


class Torn(ValueError):
    """Packed bytes end too early, are damaged, or unpack to a line without an end."""


class _Hashed(io.RawIOBase):
    """The bytes as they lie, with their hash and number so far."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self.digest = hashlib.sha256()
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        data = self.read(len(memoryview(buffer)))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        self.position += len(data)
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Unpacked(io.RawIOBase):
    """What packed bytes unpack to, through Arrow's codecs, which notice an early end (zstd's own window limit is 128 MiB)."""

    def __init__(self, packed: _Hashed, packing: Packing) -> None:
        super().__init__()
        import pyarrow

        self._arrow: Any = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), packing)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        try:
            data: bytes = self._arrow.read(min(len(memoryview(buffer)), _PACKED_CHUNK_BYTES))
        except OSError as error:
            raise Torn(_BEHIND if any(said in str(error) for said in _NO_FRAME) else str(error)) from error
        memoryview(buffer)[: len(data)] = data
        return len(data)


class Reading:
    """One pass over a source's bytes."""

    def __init__(self, source: Source) -> None:
        self._raw = _Hashed(source.open())
        self._packed = source.packing is not None
        stream = _Unpacked(self._raw, source.packing) if source.packing else self._raw
        self._stream = io.BufferedReader(stream, _CHUNK_BYTES)

    @property
    def position(self) -> int:
        """Number of bytes read so far, as they lie in the source."""
        return self._raw.position

    def end_byte(self, unpacked: int) -> int:
        """Return how far the source is, in its own bytes, when so many unpacked bytes were used."""
        return self._raw.position if self._packed else unpacked

    def head(self, size: int) -> bytes:
        """Return the first bytes, at least `size` of them where there are so many, without using them up."""
        return self._stream.peek(size)

    def chunks(self) -> Iterator[bytes]:
        """Yield the unpacked bytes in pieces of at most 1 MiB."""
        while chunk := self._stream.read1(_CHUNK_BYTES):
            yield chunk

    def lines(self, limit: int) -> Iterator[tuple[bytes, int]]:
        """Yield each line's first bytes, up to `limit`, with its whole length; a byte-order mark is left out."""
        mark = len(BOM) if self.head(len(BOM)).startswith(BOM) else 0
        self._stream.read(mark)
        while head := self._stream.readline(limit + 1):
            length = len(head) if head.endswith(b"\n") or len(head) <= limit else len(head) + self._skip_line()
            yield head, length + mark
            mark = 0

    def _skip_line(self) -> int:
        skipped = 0
        while piece := self._stream.readline(_CHUNK_BYTES):
            skipped += len(piece)
            if piece.endswith(b"\n"):
                break
            if skipped > LONGEST_SKIPPED_BYTES:
                raise Torn(f"one line has > {LONGEST_SKIPPED_BYTES} bytes")
        return skipped

    def finish(self) -> str:
        """Read what is left and return the hash of all bytes."""
        while self._raw.read(_CHUNK_BYTES):
            pass
        return self._raw.digest.hexdigest()

    def close(self) -> None:
        """Close the source."""
        self._raw.close()
