"""The card for people: the hub reads its front matter, its numbers are the statistics', and no text of a row breaks any of it."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from core.config import DataConfig
from core.contract import Severity
from core.data.card import Card, card_of
from core.data.flaws import Flaw
from core.data.limits import CoverageLimits
from core.data.privacy import PrivacyReport
from core.data.record import PromptRow
from core.data.statistics import Statistics
from core.nouns import SourceRef
from core.report.card import card_page
from core.report.card_markdown import body, front_matter, markdown
from core.report.page import page_html

ID, SHA = "0" * 12, "0" * 64
WARNING = Flaw("truncated", "completion", "x", "reason", Severity.WARNING)
TEXT = st.text(min_size=1, max_size=40) | st.sampled_from(
    [
        "---",
        "a\n---\nb",
        "x: [",
        "<script>alert(1)</script>",
        "](javascript:x)",
        "| a |",
        "```",
        "# h",
        "\r\n---\r\n",
        "&lt;b>",
    ]
)


def counted(rows: int = 3, **fields: Any) -> Statistics:
    statistics = Statistics(CoverageLimits())
    for number in range(rows):
        row = PromptRow(row_id=str(number), split="train", system=None, context=None, **{"user": "Why?", **fields})
        statistics.add(row, split=row.split, flaws=(WARNING,), tokens=7, language="fr", quality=0.9)
    return statistics


def card(statistics: Statistics | None = None, redactions: PrivacyReport | None = None, **config: Any) -> Card:
    source = SourceRef(name=config.pop("source", "folder/own.jsonl"), sha256=SHA, shape="record", records=3)
    return card_of(
        DataConfig(sources=("x",), **config),
        artifact_id=ID,
        sources=(source,),
        files=(),
        statistics=(statistics or counted()).result(redactions),
    )


def outline(text: str) -> list[tuple[str, str]]:
    """Return the blocks of Markdown that are no plain paragraph or cell."""
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(text)
    return [(token.type, token.tag) for token in tokens if not token.type.startswith(("inline", "text"))]


def test_the_hub_reads_the_front_matter() -> None:
    read = DatasetCard(markdown(card(licence="MIT", title="My own: a set"))).data.to_dict()

    assert (read["license"], read["language"], read["size_categories"]) == ("mit", ["fr"], ["n<1K"])
    assert (read["pretty_name"], read["task_categories"]) == ("My own: a set", ["text-generation"])


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("House rules, 2026", {"license": "other", "license_name": "house-rules-2026"}),
        (None, {"license": "unknown"}),
    ],
)
def test_a_licence_the_hub_does_not_know_is_told_by_name(licence: str | None, told: dict[str, str]) -> None:
    head = front_matter(card(licence=licence))
    assert {name: value for name, value in head.items() if name.startswith("license")} == told


def test_size_and_languages_are_counted_not_claimed() -> None:
    statistics = counted(1000)
    for number in range(40):
        row = PromptRow(row_id=f"e{number}", split="train", system=None, context=None, user="Why?")
        statistics.add(row, split=row.split, flaws=(), tokens=None, language="en", quality=None)
    head = front_matter(card(statistics))

    assert head["size_categories"] == ["1K<n<10K"]
    assert head["language"] == ["fr"]


@settings(max_examples=50, deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_no_text_breaks_the_front_matter_or_adds_a_block(title: str, about: str, label: str, tool: str) -> None:
    statistics = counted(extra={"tags": [label]}, tool_name=tool)
    hostile = card(statistics, title=title, about=about, source=f"{label}.jsonl", licence=tool)
    text = markdown(hostile)
    plain = card(counted(extra={"tags": ["a"]}, tool_name="b"), title="c", about="d" if about.strip() else "", licence="e")

    head, end, rest = text.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head) == front_matter(hostile)
    assert end
    assert rest == "\n" + body(hostile)
    assert DatasetCard(text).data.to_dict()["configs"] == [{"config_name": "default", "data_files": []}]
    if len(about.splitlines()) <= 1:
        wanted = outline(body(plain))
        assert [block for block in outline(body(hostile)) if block != ("fence", "code")] == [
            block for block in wanted if block != ("fence", "code")
        ]


@settings(max_examples=8, deadline=None)
@given(TEXT, TEXT)
def test_no_text_adds_an_element_to_the_page(title: str, label: str) -> None:
    drawn = page_html(card_page(card(counted(extra={"tags": [label]}), title=title, about=label)))
    specs = re.search(r'<script type="application/json" id="chart-specs">(.*?)</script>', drawn, re.S)

    assert specs
    assert not re.search("[<>&]", specs.group(1))
    assert drawn.count("<script") == 3 + drawn.count('"<script')
    assert html.escape("<script>alert(1)</script>") in drawn or "alert(1)" not in drawn


def test_numbers_of_the_card_are_those_of_the_statistics() -> None:
    statistics = counted(completion="Because.", tool_name="look", requires_json=True)
    statistics.reject("too-long")
    report = PrivacyReport(
        rows=4, rows_redacted=2, rows_set_aside=1, counts={"email": 3}, checked=("email",), not_checked=()
    )

    told = body(card(statistics, report))

    assert "3 rows of chat for a small language model, all answered: 3 to train on, 0 held out" in told
    assert "| records set aside | 1 |" in told
    assert "| whole chat | tokens | 3 | 7 | 7 | 7 | 7 | 7 | 7 | 7 |" in told
    assert "| error | too-long | 1 | Shorten the prompt or its context, or raise data.rules.max\\_prompt\\_chars. |" in told
    assert "| warning | truncated | 3 |" in told
    assert "2 of 4 records held personal data or secrets" in told
    assert "| email | 3 |" in told
    assert "its mean is 0.90, and 0 of 3 rows are below 0.5" in told
    assert "| look | 3 |" in told


@pytest.mark.parametrize(
    ("count", "title"), [(0, "empty dataset"), (1, "a"), (2, "a and b"), (3, "a, b and c"), (5, "a, b and 3 more")]
)
def test_a_dataset_without_a_title_is_called_by_its_sources(count: int, title: str) -> None:
    sources = [SourceRef(name=f"x/{name}", sha256=SHA, shape="record", records=1) for name in "abcde"[:count]]
    told = card_of(DataConfig(sources=("x",)), artifact_id=ID, sources=sources, files=(), statistics=counted().result())
    assert told.title == title


def test_the_card_does_not_tell_where_on_a_machine_a_source_lay() -> None:
    assert "/srv/somebody" not in card(source="/srv/somebody/data/own.jsonl").model_dump_json()


def test_settings_are_told_where_they_are_not_the_defaults() -> None:
    assert "All settings are edgekiln's own." in body(card())
    changed = body(card(held_out_share=0.5, rules={"max_prompt_chars": 9}))
    assert '"max_prompt_chars": 9' in changed
    assert '"held_out_share": 0.5' in changed
    assert "min_answer_chars" not in changed


def test_a_dataset_without_rows_has_a_card_too() -> None:
    told = markdown(card(Statistics(CoverageLimits())))
    assert "0 rows of chat" in told
    assert "<html" in page_html(card_page(card(Statistics(CoverageLimits()))))
