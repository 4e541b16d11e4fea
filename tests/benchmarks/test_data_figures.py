"""The data stage on a generated corpus: every planted fault is found, so many rows a second, in so much memory.

Each figure has a variant that is broken on purpose and must miss it. The gate's part has few rows and no clock.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.contract import Limit, judge
from tests.benchmarks.corpus import Corpus, write_corpus
from tests.benchmarks.meter import Measured, measure, reached
from tests.benchmarks.planted import ERRORS, WARNINGS, found_at, found_shares, planted_at

Record = Callable[[str, object], None]

GATE_ROWS = 6_000
ROWS = 500_000
BROKEN_ROWS = 20_000
ROWS_A_SECOND = 6_000
PEAK_GB = 1.5
GROWTH_GB = 0.3  # between 500,000 rows and four times as many: some 100 bytes a row
FOUND = 1.0


def edgekiln_data(corpus: Corpus, folder: Path, *more: str, program: str = "") -> tuple[Measured, Path]:
    """Run the command on a corpus with everything but tokens and privacy, and return it with the dataset's folder."""
    started = program or "from flows.cli.main import main; main()"
    argv = [sys.executable, "-c", f"import sys; sys.argv[0] = 'edgekiln'; {started}", "data", str(corpus.path), "--json"]
    settings = {
        "data.evaluation_files": json.dumps([str(corpus.evaluation)]),
        "data.answers": "required",
        "data.rules.languages": "[fr, en]",
        "data.rules.ratio_min_chars": "100",
        "data.rules.max_foreign_share": "0.1",
        "data.rules.language_chunk_chars": "60",
        "data.listed_warnings": "1000000",
    }
    argv += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    measured = measure([*argv, *more, "--workspace", str(folder / "workspace")], folder)
    datasets = sorted((folder / "workspace" / "artifacts" / "data").glob("*"))
    assert datasets, measured.stderr[-3000:]
    return measured, datasets[0]


def rows_a_second(corpus: Corpus, measured: Measured) -> float:
    return corpus.rows / measured.seconds


def fast_enough(figure: float) -> bool:
    return judge([Limit(metric="rows_a_second", op=">=", value=ROWS_A_SECOND)], {"rows_a_second": figure}).passed


def least_found(dataset: Path, corpus: Corpus) -> tuple[float, dict[str, float]]:
    shares = found_shares(dataset, corpus.truth, [*ERRORS, *WARNINGS])
    return min(shares.values()), {kind: share for kind, share in shares.items() if share < 1}


def assert_all_found(dataset: Path, corpus: Corpus) -> None:
    least, missed = least_found(dataset, corpus)
    assert least >= FOUND, missed
    planted = {line for lines in planted_at(corpus.truth).values() for line in lines}
    assert not set(found_at(dataset / "rejects.jsonl")) - planted


def test_every_planted_fault_is_found_at_its_line_and_no_clean_row_is_set_aside(
    tmp_path: Path, record_property: Record
) -> None:
    corpus = write_corpus(tmp_path / "corpus", GATE_ROWS, seed=1)
    measured, dataset = edgekiln_data(corpus, tmp_path)
    assert measured.status == 0, measured.stderr[-3000:]
    assert_all_found(dataset, corpus)
    record_property(f"{GATE_ROWS:,} rows, kinds of planted faults found at 100 %", len(ERRORS) + len(WARNINGS))

    _, blind = edgekiln_data(corpus, tmp_path / "broken", "--set", "data.rules.languages=[fr, en, de]")
    least, missed = least_found(blind, corpus)
    record_property("broken on purpose: German is allowed, found", json.dumps(missed))
    assert least < FOUND


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), ROWS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_half_a_million_rows_with_every_rule_but_tokens(corpus: Corpus, tmp_path: Path, record_property: Record) -> None:
    measured, dataset = edgekiln_data(corpus, tmp_path)
    assert measured.status == 0, measured.stderr[-3000:]
    figure = rows_a_second(corpus, measured)
    record_property("ASCII share of the corpus, bytes / rows", f"{corpus.ascii_share:.1%} / {corpus.ascii_rows_share:.1%}")
    record_property(f"{ROWS:,} rows without token rules [rows/s], at least {ROWS_A_SECOND:,}", round(figure))
    record_property(f"its peak memory [GB], limit {PEAK_GB}", round(measured.peak_gb or 0, 2))
    assert_all_found(dataset, corpus)
    assert reached("peak_gb", measured.peak_gb, PEAK_GB)
    assert fast_enough(figure)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_four_times_the_rows_take_hardly_more_memory(corpus: Corpus, tmp_path: Path, record_property: Record) -> None:
    small, _ = edgekiln_data(corpus, tmp_path / "small")
    shutil.rmtree(tmp_path / "small")
    large_corpus = write_corpus(tmp_path / "corpus", 4 * ROWS)
    large, _ = edgekiln_data(large_corpus, tmp_path / "large")
    assert large.status == small.status == 0
    growth = (large.peak_gb or 0) - (small.peak_gb or 0)
    record_property(f"{4 * ROWS:,} rows, peak memory [GB], limit {PEAK_GB}", round(large.peak_gb or 0, 2))
    record_property(f"more than {ROWS:,} rows take [GB], limit {GROWTH_GB}", round(growth, 2))
    assert reached("peak_gb", large.peak_gb, PEAK_GB)
    assert reached("growth_gb", growth, GROWTH_GB)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_pass_that_judges_row_by_row_is_too_slow(tmp_path: Path, record_property: Record) -> None:
    corpus = write_corpus(tmp_path / "corpus", BROKEN_ROWS)
    program = "from core.data import streaming; streaming.BATCH_ROWS = 1; from flows.cli.main import main; main()"
    measured, _ = edgekiln_data(corpus, tmp_path, program=program)
    figure = rows_a_second(corpus, measured)
    record_property("broken on purpose: batches of one row [rows/s]", round(figure))
    assert not fast_enough(figure)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_pass_that_keeps_all_rows_takes_too_much_memory(corpus: Corpus, tmp_path: Path, record_property: Record) -> None:
    program = (
        "import sys; from core.data.readers import open_sources, read_lines;"
        "kept = [line for source in open_sources(sys.argv[1:], 8) for line in read_lines(source, 40_000)]"
    )
    measured = measure([sys.executable, "-c", program, str(corpus.path)], tmp_path)
    record_property("broken on purpose: a list of all rows [GB]", round(measured.peak_gb or 0, 2))
    assert not reached("peak_gb", measured.peak_gb, PEAK_GB)
