"""Finished process starts, kept one file each so that a kill loses none, and the measurements they add up to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from core.bench.llama_bench import BenchRow, detect_origin, name_of_test
from core.config import BenchConfig
from core.contract import Contract, Origin
from core.files import write_atomic
from core.nouns import Measurement


class Start(Contract):
    """One finished process start of llama-bench: the whole rows it wrote, and its error when it did not end well."""

    quantisation: str
    number: int
    rows: tuple[BenchRow, ...]
    error: str | None = None


def keep(folder: Path, start: Start) -> None:
    """Keep a finished start at once and durably."""
    write_atomic(_path(folder, start.quantisation, start.number), start.model_dump_json().encode())


def kept(folder: Path, quantisation: str, number: int) -> Start | None:
    """Return a start that an earlier process finished, None when it must be run."""
    path = _path(folder, quantisation, number)
    try:
        return Start.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _path(folder: Path, quantisation: str, number: int) -> Path:
    return folder / f"{number:02d}-{quantisation}.json"


class Arches(Contract):
    """What a device and its llama-bench are compiled for, to tell measured from emulated."""

    device: str
    program: str | None


def measurements(starts: Sequence[Start], config: BenchConfig, threads: int, arches: Arches) -> Iterator[Measurement]:
    """Yield one measurement a quantisation and test over all its starts, then one a start that lacks the test."""
    for quantisation in dict.fromkeys(start.quantisation for start in starts):
        own = [start for start in starts if start.quantisation == quantisation]
        for n_prompt, n_gen in ((config.n_prompt, 0), (0, config.n_gen)):
            asked = {"quantisation": quantisation, "n_prompt": n_prompt, "n_gen": n_gen, "n_depth": 0, "threads": threads}
            yield from _test(own, asked, arches)


def _test(starts: Sequence[Start], asked: Mapping[str, Any], arches: Arches) -> Iterator[Measurement]:
    test = name_of_test(asked["n_prompt"], asked["n_gen"])
    rows = {start.number: [row for row in start.rows if row.test == test and row.samples_tps] for start in starts}
    good = [row for found in rows.values() for row in found]
    if good:
        samples = tuple(rate for row in good for rate in row.samples_tps)
        yield Measurement(
            **asked,
            test=test,
            origin=_origin(good, arches),
            samples_tps=samples,
            median_tps=median(samples),
            raw=tuple(row.raw for row in good),
        )
    for start in starts:
        if not rows[start.number]:
            error = start.error or "llama-bench wrote no whole row of this test"
            origin = _origin(list(start.rows), arches)
            yield Measurement(**asked, test=test, origin=origin, samples_tps=(), median_tps=None, error=error)


def _origin(rows: Sequence[BenchRow], arches: Arches) -> Origin:
    """Return emulated as soon as one row is: a mixture is no measurement."""
    told = {detect_origin(row.cpu_info, arches.device, arches.program) for row in rows}
    told = told or {detect_origin("", arches.device, arches.program)}
    return Origin.EMULATED if Origin.EMULATED in told else Origin.MEASURED


def metrics(found: Sequence[Measurement]) -> dict[str, float]:
    """Return pp_tps.TYPE and tg_tps.TYPE; only measured speeds are judged by gates."""
    return {
        f"{'pp' if measurement.n_prompt else 'tg'}_tps.{measurement.quantisation}": measurement.median_tps
        for measurement in found
        if measurement.median_tps is not None and measurement.origin is Origin.MEASURED
    }
