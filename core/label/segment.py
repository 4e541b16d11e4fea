"""A segment of the request ledger: answers on their way to another machine, packed into one object and read with suspicion."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from core.contract import Contract
from core.errors import ArtifactError
from core.files import canonical_json
from core.label.entries import COMPARISON
from core.label.request import Reply, Request

MAX_ROWS = 1000
MAX_BYTES = 16 << 20  # as it lies in the store
_MAX_PLAIN_BYTES = 64 << 20
_FULL_BYTES = 4 << 20  # a segment that has so much takes no further answer
_MAX_COUNT = 2**53
_HEAD = b'{"format":1}'
_SessionOf = Annotated[str, StringConstraints(pattern=rf"^({COMPARISON})?[0-9a-f]{{12}}$")]  # a labelling's, a comparison's
_REMEDY = "It is left where it lies and its prompts are asked anew; take it away from the store."


class Carried(Contract):
    """An answered request; `artifact_id` and `started_at` name the session that sent it last, None where it is not known."""

    request: Request
    reply: Reply
    cost: FiniteFloat | None
    sent: int = Field(ge=0, le=_MAX_COUNT)
    attempts: int = Field(ge=0, le=_MAX_COUNT)
    first_sent_at: AwareDatetime
    finished_at: AwareDatetime
    artifact_id: _SessionOf | None
    started_at: AwareDatetime | None

    @model_validator(mode="after")
    def _fits_a_ledger(self) -> Self:
        if not all(0 <= count <= _MAX_COUNT for count in (self.reply.prompt_tokens, self.reply.completion_tokens)):
            raise ValueError(f"a token count is not in 0..{_MAX_COUNT}")
        return self


def stamp(moment: datetime) -> str:
    """Return a moment as the ledger writes it, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def full_ones(answers: Sequence[Carried]) -> Iterator[tuple[bytes, list[Carried]]]:
    """Yield the answers packed into segments of bounded size, each with what it holds."""
    lines: list[bytes] = []
    held: list[Carried] = []
    size = 0
    for each in answers:
        lines.append(_line(each))
        held.append(each)
        size += len(lines[-1])
        if len(held) >= MAX_ROWS or size >= _FULL_BYTES:
            yield _packed(lines), held
            lines, held, size = [], [], 0
    if held:
        yield _packed(lines), held


def name_of(segment: bytes) -> str:
    """Return the name of a segment, the hash of its bytes."""
    return hashlib.sha256(segment).hexdigest()


def read(name: str, segment: bytes) -> list[Carried]:
    """Return a segment's answers; ArtifactError when it is not what its name says, too large, or no segment."""
    if (digest := name_of(segment)) != name:
        raise _broken(name, f"its bytes have sha256 {digest[:12]}")
    lines = _unpacked(name, segment).split(b"\n")
    if lines[0] != _HEAD:
        raise _broken(name, f"it begins with {lines[0][:40]!r}, not with {_HEAD!r}")
    if len(lines) - 1 > MAX_ROWS:
        raise _broken(name, f"it holds {len(lines) - 1} answers > {MAX_ROWS}")
    return [_answer(name, number, line) for number, line in enumerate(lines[1:], start=1)]


def _answer(name: str, number: int, line: bytes) -> Carried:
    try:
        answer = Carried.model_validate_json(line)
        if _line(answer) != line:  # it has one form only; NaN, for one, has none
            raise _broken(name, f"answer {number} is not written as edgekiln writes it")
    except ValidationError as error:
        first = error.errors()[0]
        raise _broken(name, f"answer {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, OverflowError) as error:
        raise _broken(name, f"answer {number}: {error}") from error
    return answer


def _line(answer: Carried) -> bytes:
    return canonical_json(answer.model_dump(mode="json"))


def _packed(lines: Iterable[bytes]) -> bytes:
    return zlib.compress(b"\n".join((_HEAD, *lines)))


def _unpacked(name: str, segment: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(segment, _MAX_PLAIN_BYTES)
    except zlib.error as error:
        raise _broken(name, str(error)) from error
    if unpacking.unconsumed_tail:
        raise _broken(name, f"it unpacks to > {_MAX_PLAIN_BYTES} bytes")
    if not unpacking.eof or unpacking.unused_data:
        raise _broken(name, "it ends too early, or goes on after its end")
    return plain


def _broken(name: str, why: str) -> ArtifactError:
    return ArtifactError(f"ledger segment {name[:12]}: {why}", remedy=_REMEDY)
