"""The one pass over the sources: every record comes out once, as a kept row or as a reject, in bounded memory.

Rows go to a spool while they are judged (a crew does that). What needs all rows (clusters, and with them the split) is
decided on a few numbers a row; then the spool becomes the Dataset's file. In memory are some 100 bytes a row.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.config import DataConfig
from core.contract import Severity, Stage
from core.data.crew import BATCH_ROWS, Crew
from core.data.flaw_log import FlawLog
from core.data.flaws import Flaw
from core.data.judging import Judged
from core.data.near_duplicates import Deduplicator
from core.data.passages import PassageFile
from core.data.readers import read_lines
from core.data.record import Reject
from core.data.rows_file import UNSPLIT
from core.data.seen import Seen
from core.data.source import Line, Source
from core.data.statistics import Statistics
from core.events import OnEvent, Progress
from core.nouns import SourceRef

_BATCH_BYTES = 1 << 20
_PACKED_BATCH_ROWS = 64  # how much is in a packed batch is not known before
_BATCHES_BETWEEN_PROGRESS = 16


@dataclass(frozen=True)
class _Batch:
    number: int
    source: int
    lines: list[Line]


class Intake:
    """Takes in all records of the sources: judged, freed of exact duplicates, spooled."""

    def __init__(self, config: DataConfig, sources: Sequence[Source], scratch: Path, logs: Logs) -> None:
        self.statistics = Statistics(config.coverage)
        self.places = array("d")
        self.quotes = array("q")
        self.passages = PassageFile(scratch / "passages.bin")
        self.deduplicator = Deduplicator(scratch / "signatures", threshold=config.duplicates.threshold)
        self.records = 0
        self._spool = scratch / "rows.arrow"
        self._config = config
        self._sources = sources
        self.logs = logs
        self._seen = Seen()
        self._shapes: list[Counter[str]] = [Counter() for _ in sources]
        self._row_sources = array("i")
        self._row_lines = array("q")

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.passages.close()
        self.deduplicator.close()

    def __len__(self) -> int:
        return len(self.places)

    def read(self, crew: Crew, on_event: OnEvent) -> None:
        """Read everything; the crew's totals then hold the kept rows."""
        waiting: deque[_Batch] = deque()
        total, done = sum(source.size_bytes for source in self._sources), 0
        before = [0]
        for source in self._sources:
            before.append(before[-1] + source.size_bytes)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(self._spool), "wb") as file, pa.ipc.new_stream(file, UNSPLIT, options=options) as spool:
            for batch in self._batches():
                crew.give(batch.number, batch.lines)
                waiting.append(batch)
                if len(waiting) >= crew.capacity:
                    self._take(crew, waiting.popleft(), spool)
                if batch.number % _BATCHES_BETWEEN_PROGRESS == 0:
                    done = before[batch.source] + batch.lines[-1].end_byte
                    on_event(Progress(stage=Stage.DATA, task="reading", done=done, total=total, unit="bytes"))
            while waiting:
                self._take(crew, waiting.popleft(), spool)
        on_event(Progress(stage=Stage.DATA, task="reading", done=total, total=total, unit="bytes"))

    def _batches(self) -> Iterator[_Batch]:
        longest = self._config.rules.max_prompt_chars + self._config.rules.max_answer_chars
        number = 0
        for place, source in enumerate(self._sources):
            most = _PACKED_BATCH_ROWS if source.packing or source.form == "parquet" else BATCH_ROWS
            lines: list[Line] = []
            start = 0
            for line in read_lines(source, longest):
                lines.append(line)
                if len(lines) >= most or line.end_byte - start >= _BATCH_BYTES:
                    yield _Batch(number, place, lines)
                    number, lines, start = number + 1, [], line.end_byte
            if lines:
                yield _Batch(number, place, lines)
                number += 1

    def _take(self, crew: Crew, batch: _Batch, spool: pa.RecordBatchWriter) -> None:
        judged = crew.take(batch.number)
        first = self._seen.add(judged.keys)
        stayed = first < 0
        crew.settle(batch.number, stayed.tolist())
        self.records += len(batch.lines)
        self._shapes[batch.source].update(judged.shapes)
        self._keep(batch, judged, stayed, spool)
        duplicates = [
            (judged.kept[place], self._duplicate(batch, judged, int(place), int(first[place])))
            for place in np.flatnonzero(~stayed)
        ]
        for _, reject in sorted([*judged.rejects, *duplicates], key=lambda entry: entry[0]):
            self.logs.rejects.add(reject)
            self.statistics.reject(reject.code, reject.severity)
        for place, warning in judged.warnings:
            if stayed[place]:
                self.logs.warnings.add(warning)

    def _keep(self, batch: _Batch, judged: Judged, stayed: npt.NDArray[np.bool_], spool: pa.RecordBatchWriter) -> None:
        rows = judged.rows.filter(pa.array(stayed))
        if len(rows):
            spool.write_batch(rows)
        self.places.frombytes(judged.places[stayed].tobytes())
        self.quotes.frombytes(judged.quotes[stayed].tobytes())
        lines = [batch.lines[judged.kept[place]] for place in np.flatnonzero(stayed).tolist()]
        self._row_sources.extend([batch.source] * len(lines))
        self._row_lines.extend([int(line.where.rpartition(":")[2]) for line in lines])
        self.passages.add(judged.passages, stayed)
        row_ids = np.frombuffer(bytes.fromhex("".join(rows.column("row_id").to_pylist())), dtype=">u8").astype(np.uint64)
        self.deduplicator.add(judged.fingerprints.those(stayed), judged.answer_chars[stayed], row_ids)

    def _duplicate(self, batch: _Batch, judged: Judged, place: int, first: int) -> Reject:
        asked = judged.rows.column("user")[place].as_py()
        flaw = Flaw("duplicate", "user", asked, f"asks exactly what {self.where(first)} asks")
        return flaw.at(batch.lines[judged.kept[place]].where)

    def where(self, row: int) -> str:
        """Return from where a kept row was read."""
        return f"{self._sources[self._row_sources[row]].name}:{self._row_lines[row]}"

    def described(self) -> tuple[SourceRef, ...]:
        """Return how each source was read."""
        return tuple(_described(source, shapes) for source, shapes in zip(self._sources, self._shapes, strict=True))

    def spooled(self) -> Iterator[pa.RecordBatch]:
        """Yield the kept rows again, in their order."""
        with pa.OSFile(str(self._spool), "rb") as file, pa.ipc.open_stream(file) as spool:
            yield from spool


@dataclass(frozen=True)
class Logs:
    """Where what is found goes."""

    rejects: FlawLog
    warnings: FlawLog

    def remedies(self) -> dict[str, str]:
        """Return what to do about each code that was found."""
        return {**self.rejects.remedies(), **self.warnings.remedies()}

    def warning(self, where: str, row_id: str, flaw: Flaw) -> None:
        """Take a warning about a row that is known only when all rows are."""
        self.warnings.add(Flaw(flaw.code, flaw.field, flaw.value, flaw.reason, Severity.WARNING).at(where, row_id))


def _described(source: Source, shapes: Counter[str]) -> SourceRef:
    read = [shape for shape in sorted(shapes) if shape != "unread"]
    return SourceRef(name=source.name, sha256=source.sha256, shape="+".join(read) or "unknown", records=shapes.total())
