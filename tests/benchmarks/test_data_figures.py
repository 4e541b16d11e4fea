"""The data stage on a generated corpus: every planted fault is found, so many rows a second, in so much memory.

Two kinds of runs: what is found is judged with every option on (languages, evaluation files, privacy), how fast it is with
what a user has who sets none, without and with the student's tokens. Each figure has a variant that is broken on purpose and
must miss it. The gate's part has few rows and no clock.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core import catalogue
from core.config import load
from core.contract import Limit, judge
from core.train.student import folder as student_folder
from tests.benchmarks.corpus import Corpus, write_corpus
from tests.benchmarks.meter import Measured, measure, reached
from tests.benchmarks.planted import (
    ERRORS,
    LOOKALIKES,
    NEAR_DUPLICATES,
    PERSONAL,
    PERSONAL_VALUES,
    TOKEN_ERRORS,
    WARNINGS,
    alike_shares,
    found_at,
    found_shares,
    planted_at,
)

Record = Callable[[str, object], None]

GATE_ROWS = 6_000
ROWS = 500_000
BROKEN_ROWS = 20_000
ROWS_A_SECOND = 6_000
ROWS_A_SECOND_WITH_TOKENS = 3_000
PEAK_GB = 1.5
GROWTH_GB = 0.3  # between 500,000 rows and four times as many: some 100 bytes a row
FOUND = 1.0
WITH_TOKENS = ("--set", "data.token_rules=true")
ROW_BY_ROW = "from core.data import streaming; streaming.BATCH_ROWS = 1; from flows.cli.main import main; main()"


def everything(corpus: Corpus) -> tuple[str, ...]:
    """Return the settings of a run that looks for everything but what the student's tokens tell."""
    settings = {
        "data.evaluation_files": json.dumps([str(corpus.evaluation)]),
        "data.privacy.redact": "true",
        "data.rules.languages": "[fr, en]",
        "data.rules.ratio_min_chars": "100",
        "data.rules.max_foreign_share": "0.1",
        "data.rules.language_chunk_chars": "60",
        "data.listed_warnings": "1000000",
    }
    return tuple(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))


def edgekiln_data(corpus: Corpus, folder: Path, *more: str, program: str = "") -> tuple[Measured, Path]:
    """Run the command on a corpus of answered chats and return it with the dataset's folder."""
    started = program or "from flows.cli.main import main; main()"
    argv = [sys.executable, "-c", f"import sys; sys.argv[0] = 'edgekiln'; {started}", "data", str(corpus.path), "--json"]
    options = ["--set", "data.answers=required", *more, "--workspace", str(folder / "workspace")]
    measured = measure([*argv, *options], folder)
    datasets = sorted((folder / "workspace" / "artifacts" / "data").glob("*"))
    assert datasets, measured.stderr[-3000:]
    return measured, datasets[0]


def rows_a_second(corpus: Corpus, measured: Measured) -> float:
    return corpus.rows / measured.seconds


def fast_enough(figure: float, least: float = ROWS_A_SECOND) -> bool:
    return judge([Limit(metric="rows_a_second", op=">=", value=least)], {"rows_a_second": figure}).passed


def finds_copies(shares: dict[float, float]) -> bool:
    limits = [Limit(metric=f"{rate:g}", op=">=", value=least) for rate, least in NEAR_DUPLICATES.items()]
    return judge(limits, {f"{rate:g}": share for rate, share in shares.items()}).passed


def assert_copies_found(dataset: Path, corpus: Corpus, record_property: Record) -> None:
    copies, lookalikes = (alike_shares(dataset, corpus.truth, kind) for kind in ("near-duplicate", "lookalike"))
    told = ", ".join(f"{rate:.1%} {share:.1%}" for rate, share in {**copies, **lookalikes}.items())
    record_property(f"{corpus.rows:,} rows, near duplicates found by share of words edited", told)
    assert finds_copies(copies)
    assert max(lookalikes.values()) <= LOOKALIKES


def assert_private(dataset: Path, corpus: Corpus) -> None:
    report = json.loads((dataset / "privacy.json").read_text(encoding="utf-8"))
    short = [kind for kind, name in PERSONAL.items() if report["counts"].get(name, 0) < corpus.planted.get(kind, 0)]
    assert not short, report["counts"]
    held = [path.name for path in dataset.iterdir() if path.suffix in {".json", ".jsonl", ".md"} and _holds(path)]
    assert not held


def _holds(path: Path) -> bool:
    with path.open(encoding="utf-8") as lines:
        return any(value in line for line in lines for value in PERSONAL_VALUES)


def least_found(dataset: Path, corpus: Corpus) -> tuple[float, dict[str, float]]:
    shares = found_shares(dataset, corpus.truth, [*ERRORS, *WARNINGS])
    return min(shares.values()), {kind: share for kind, share in shares.items() if share < 1}


def assert_all_found(dataset: Path, corpus: Corpus) -> None:
    least, missed = least_found(dataset, corpus)
    assert least >= FOUND, missed
    assert_only_planted_rows_are_set_aside(dataset, corpus)


def assert_only_planted_rows_are_set_aside(dataset: Path, corpus: Corpus) -> None:
    planted = {line for lines in planted_at(corpus.truth).values() for line in lines}
    assert not set(found_at(dataset / "rejects.jsonl")) - planted


def test_every_planted_fault_is_found_at_its_line_and_no_clean_row_is_set_aside(
    tmp_path: Path, record_property: Record
) -> None:
    corpus = write_corpus(tmp_path / "corpus", GATE_ROWS, seed=1)
    measured, dataset = edgekiln_data(corpus, tmp_path, *everything(corpus))
    assert measured.status == 0, measured.stderr[-3000:]
    assert_all_found(dataset, corpus)
    assert_copies_found(dataset, corpus, record_property)
    assert_private(dataset, corpus)
    record_property(f"{GATE_ROWS:,} rows, kinds of planted faults found at 100 %", len(ERRORS) + len(WARNINGS))

    broken = ("--set", "data.rules.languages=[fr, en, de]", "--set", "data.duplicates.threshold=0.98")
    _, blind = edgekiln_data(corpus, tmp_path / "broken", *everything(corpus), *broken)
    least, missed = least_found(blind, corpus)
    record_property("broken on purpose: German is allowed, found", json.dumps(missed))
    assert least < FOUND
    shares = alike_shares(blind, corpus.truth, "near-duplicate")
    record_property("broken on purpose: a threshold of 0.98, near duplicates found", json.dumps(shares))
    assert not finds_copies(shares)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), ROWS)


@pytest.fixture(scope="module")
def student() -> str:
    """Make the default profile's student, whose tokenizer the runs with token rules find in the cache, and name it."""
    card = catalogue.model(load("demo").train.student)
    student_folder(card)
    return card.name


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_half_a_million_rows_with_every_option_on(corpus: Corpus, tmp_path: Path, record_property: Record) -> None:
    measured, dataset = edgekiln_data(corpus, tmp_path, *everything(corpus))
    assert measured.status == 0, measured.stderr[-3000:]
    record_property("ASCII share of the corpus, bytes / rows", f"{corpus.ascii_share:.1%} / {corpus.ascii_rows_share:.1%}")
    record_property(f"{ROWS:,} rows with every option on [rows/s]", round(rows_a_second(corpus, measured)))
    record_property(f"its peak memory [GB], limit {PEAK_GB}", round(measured.peak_gb or 0, 2))
    assert_all_found(dataset, corpus)
    assert_copies_found(dataset, corpus, record_property)
    assert_private(dataset, corpus)
    assert reached("peak_gb", measured.peak_gb, PEAK_GB)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_half_a_million_rows_without_the_tokenizers_rules(corpus: Corpus, tmp_path: Path, record_property: Record) -> None:
    measured, dataset = edgekiln_data(corpus, tmp_path)
    assert measured.status == 0, measured.stderr[-3000:]
    figure = rows_a_second(corpus, measured)
    record_property(f"{ROWS:,} rows without token rules [rows/s], at least {ROWS_A_SECOND:,}", round(figure))
    record_property(f"its peak memory [GB], limit {PEAK_GB}", round(measured.peak_gb or 0, 2))
    assert_only_planted_rows_are_set_aside(dataset, corpus)
    assert reached("peak_gb", measured.peak_gb, PEAK_GB)
    assert fast_enough(figure)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_half_a_million_rows_with_the_students_tokens(
    corpus: Corpus, student: str, tmp_path: Path, record_property: Record
) -> None:
    measured, dataset = edgekiln_data(corpus, tmp_path, *WITH_TOKENS)
    assert measured.status == 0, measured.stderr[-3000:]
    figure = rows_a_second(corpus, measured)
    least = ROWS_A_SECOND_WITH_TOKENS
    record_property(f"{ROWS:,} rows with token rules, {student} [rows/s], at least {least:,}", round(figure))
    record_property(f"its peak memory [GB], limit {PEAK_GB}", round(measured.peak_gb or 0, 2))
    assert found_shares(dataset, corpus.truth, TOKEN_ERRORS) == dict.fromkeys(TOKEN_ERRORS, FOUND)
    assert_only_planted_rows_are_set_aside(dataset, corpus)
    assert reached("peak_gb", measured.peak_gb, PEAK_GB)
    assert fast_enough(figure, least)


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
    measured, _ = edgekiln_data(corpus, tmp_path, program=ROW_BY_ROW)
    figure = rows_a_second(corpus, measured)
    record_property("broken on purpose: batches of one row [rows/s]", round(figure))
    assert not fast_enough(figure)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_tokens_counted_row_by_row_are_too_slow(tmp_path: Path, student: str, record_property: Record) -> None:
    corpus = write_corpus(tmp_path / "corpus", BROKEN_ROWS)
    measured, _ = edgekiln_data(corpus, tmp_path, *WITH_TOKENS, program=ROW_BY_ROW)
    figure = rows_a_second(corpus, measured)
    record_property(f"broken on purpose: tokens in batches of one row, {student} [rows/s]", round(figure))
    assert not fast_enough(figure, ROWS_A_SECOND_WITH_TOKENS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_pass_that_keeps_all_rows_takes_too_much_memory(corpus: Corpus, tmp_path: Path, record_property: Record) -> None:
    program = (
        "import sys; from core.data.readers import open_sources, read_lines;"
        "kept = [(line, line.record) for source in open_sources(sys.argv[1:], 8) for line in read_lines(source, 40_000)]"
    )
    measured = measure([sys.executable, "-c", program, str(corpus.path)], tmp_path)
    record_property("broken on purpose: a list of all rows [GB]", round(measured.peak_gb or 0, 2))
    assert not reached("peak_gb", measured.peak_gb, PEAK_GB)
