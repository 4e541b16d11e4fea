"""The dataset card for people: its sections, drawn as a page with plots; the hub's Markdown is made of them in card_markdown.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from core.config import DataConfig
from core.data.card import FILE, Card
from core.data.histogram import Distribution
from core.data.statistics import CorpusStatistics, LabelCount, QualityCount
from core.report.charts import Chart, histogram, ranking
from core.report.page import Page, Section
from core.report.table import Cell, Column, Table

_SPLITS = {"train": "train", "held_out": "held out"}
_PARTS = {
    "question": "question (the last user turn)",
    "prompt": "prompt (all the model is shown)",
    "answer": "answer",
}
_FIELDS = (
    ("row_id", "hash of everything that shapes the chat; names the row across versions"),
    ("split", "train, or held_out: never trained on, kept for judging"),
    ("system", "instruction to the model, may be empty"),
    ("context", "text the question is about, may be empty"),
    ("history", "earlier turns of the chat, where there are any"),
    ("user", "the question to answer"),
    ("steps", "tool calls and their results between question and answer, where there are any"),
    ("completion", "the answer; empty where a teacher model is still to write it"),
    ("answer_tool_calls", "the tool calls the answer makes, where it makes any"),
    ("tools", "the tools the model may call, in OpenAI's form"),
    ("requires_json, tool_name, tool_schema", "whether the answer must be JSON, by which JSON Schema"),
    ("extra", "all other fields of the source, unchanged"),
)
_HOW_SPLIT = (
    "Whether a row is held out is decided by the hash of its question and context alone (aim: {share:.0%}), so it stays where "
    "it is when the dataset grows; rows that resemble each other stay on one side."
)
_SAID = frozenset({"title", "about", "licence"})
_SHOWN_LABELS = 12
_DRAWN_FIELDS = 3
_BARS_WORTH_DRAWING = 3
_LOW_QUALITY = 0.5
_NAME_CHARS = 60


def card_page(card: Card) -> Page:
    """Return the card as a page with plots."""
    facts = [("licence", card.licence or "not stated"), ("dataset", card.dataset), ("made by", f"edgekiln {card.edgekiln}")]
    return Page(title=card.title, lead=lead(card), facts=tuple(facts), sections=sections(card))


def lead(card: Card) -> str:
    """Return what the dataset is in one line."""
    known = card.statistics
    rows = "1 row" if known.rows == 1 else f"{known.rows:,} rows"
    answered = {0: "none answered yet", known.rows: "all answered"}.get(known.answered, f"{known.answered:,} answered")
    total = sum(known.languages.values())
    spoken = [f"{code} {share:.0%}" for code, share in main_languages(known.languages).items()] if total else []
    language = f"; language by detection: {', '.join(spoken)}" if spoken else ""
    return (
        f"{rows} of chat for a small language model, {answered}: {known.splits.get('train', 0):,} to train on, "
        f"{known.splits.get('held_out', 0):,} held out{language}."
    )


def main_languages(counts: Mapping[str, int], least: float = 0.05) -> dict[str, float]:
    """Return the share of each language that has at least `least` of the rows whose language is sure."""
    total = sum(counts.values())
    return {code: rows / total for code, rows in counts.items() if rows >= least * total}


def sections(card: Card, *, drawn: bool = True) -> tuple[Section, ...]:
    """Return the card's sections; with `drawn` false without charts, whose library takes longer to load than a small pass."""
    known = card.statistics
    about = [Section(heading="What it is", text=tuple(card.about.splitlines()))] if card.about.strip() else []
    return (
        *about,
        _rows(card),
        _origin(card),
        Section(heading="What a row holds", tables=(_table("Fields", ("field", "meaning"), _FIELDS),)),
        _lengths(card, drawn),
        *_languages(known),
        *_labels(known, drawn),
        *_tools(known),
        _findings(card, drawn),
        _privacy(known),
        *([_quality(known.quality, drawn)] if known.quality else []),
        _making(card),
    )


def _table(title: str, titles: Iterable[str], rows: Iterable[Iterable[Cell]], notes: Iterable[str] = ()) -> Table:
    """Return a table whose columns of numbers and of shares are to the right."""
    cells = tuple(tuple(row) for row in rows)
    columns = tuple(
        Column(
            key=head,
            title=head,
            align="right" if cells and all(_is_number(row[place]) for row in cells) else "left",
        )
        for place, head in enumerate(titles)
    )
    return Table(title=title, columns=columns, rows=cells, notes=tuple(notes))


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) or (isinstance(cell, str) and cell[:1].isdigit() and cell.endswith("%"))


def _rows(card: Card) -> Section:
    known = card.statistics
    counts: list[tuple[Cell, ...]] = [
        (f"rows to {_SPLITS[side]} on" if side == "train" else "rows held out", number)
        for side, number in known.splits.items()
    ]
    counts += [("rows with an answer", known.answered), ("records set aside", known.rejected)]
    share = card.config.get("held_out_share")
    text = (_HOW_SPLIT.format(share=share),) if isinstance(share, float) else ()
    files = (
        (file.path, _SPLITS[file.split] if file.split else "both", file.rows, file.bytes, file.sha256)
        for file in card.files
    )
    tables = (
        _table("Counts", ("what", "number"), counts),
        _table("Files", ("file", "split", "rows", "bytes", "sha256"), files),
    )
    return Section(heading="Rows", text=text, tables=tables)


def _origin(card: Card) -> Section:
    rows = ((source.name, source.shape, source.records, source.sha256) for source in card.sources)
    licence = f"Licence: {card.licence}." if card.licence else "The licence is not stated; ask before using the data."
    return Section(
        heading="Where it comes from",
        text=(licence,),
        tables=(_table("Sources", ("source", "record format", "records", "sha256"), rows),),
    )


def _lengths(card: Card, drawn: bool) -> Section:
    known = card.statistics
    named = [(_PARTS[part], "characters", found) for part, found in known.characters.items()]
    named += [("whole chat", "tokens", known.tokens)] if known.tokens else []
    named += [("whole chat", "turns", known.turns)] if known.turns else []
    titles = ("of", "in", "rows", "mean", "least", "5 %", "median", "95 %", "99 %", "most")
    rows = [(of, unit, d.rows, round(d.mean, 1), d.minimum, d.p5, d.p50, d.p95, d.p99, d.maximum) for of, unit, d in named]
    asked = card.config.get("token_rules")
    why = "the student's tokenizer was not at hand" if asked else "data.token_rules is off"
    text = () if known.tokens else (f"Tokens were not counted: {why}.",)
    shown = [(f"Length of the {part}", found, "characters") for part, found in known.characters.items() if part != "prompt"]
    shown += [("Tokens of a whole chat", known.tokens, "tokens")] if known.tokens else []
    charts = tuple(_length_chart(*chart) for chart in shown) if drawn else ()
    return Section(heading="Lengths", text=text, tables=(_table("Percentiles over rows", titles, rows),), charts=charts)


def _length_chart(title: str, found: Distribution, unit: str) -> Chart:
    width = found.bins[0].upper - found.bins[0].lower + 1
    bars = [(held.lower, held.lower + width, held.rows) for held in found.bins]
    last = found.bins[-1]
    far = f"; the last bar holds all from {last.lower:,} up" if last.upper - last.lower + 1 > width else ""
    return histogram(
        title, f"Half of the rows have {found.p50:,} {unit} or fewer, the longest {found.maximum:,}{far}.", bars, x=unit
    )


def _languages(known: CorpusStatistics) -> list[Section]:
    if not known.languages:
        return []
    sure = sum(known.languages.values())
    rows = [(code, number, f"{number / sure:.1%}") for code, number in known.languages.items()]
    unsure = f"In {known.rows - sure:,} of {known.rows:,} rows the text is too short or mixed for its language to be sure."
    notes = [unsure] if known.rows > sure else []
    table = _table("Detected in rows", ("ISO 639 code", "rows", "share of those sure"), rows[:_SHOWN_LABELS], notes)
    return [Section(heading="Languages", tables=(table,))]


def _labels(known: CorpusStatistics, drawn: bool) -> list[Section]:
    if not known.labels:
        return []
    tables = tuple(_label_table(label, known.rows) for label in known.labels)
    shown = [label for label in known.labels if label.commonest][:_DRAWN_FIELDS] if drawn else []
    return [
        Section(heading="Labels", tables=tables, charts=tuple(chart for label in shown for chart in _label_chart(label)))
    ]


def _label_table(label: LabelCount, rows: int) -> Table:
    shown = list(label.commonest.items())[:_SHOWN_LABELS]
    notes = [f"{label.rows:,} of {rows:,} rows have the field."]
    if label.distinct is None:
        notes.append("It has so many different values that it is free text and no label.")
    elif label.distinct > len(shown):
        notes.append(f"{label.distinct - len(shown):,} rarer values are not shown.")
    return _table(label.field, ("value", "rows"), shown, notes)


def _label_chart(label: LabelCount) -> tuple[Chart, ...]:
    shown = list(label.commonest.items())[:_SHOWN_LABELS]
    rest = f", of {label.distinct:,}" if label.distinct and label.distinct > len(shown) else ""
    return _ranked(f"Coverage by {label.field}", f"The {len(shown)} commonest values{rest}.", _distinct(shown))


def _ranked(title: str, caption: str, bars: list[tuple[str, int]]) -> tuple[Chart, ...]:
    """Return a ranking, none where it would say no more than the table beside it."""
    return (ranking(title, caption, bars),) if len(bars) >= _BARS_WORTH_DRAWING else ()


def _distinct(bars: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Cut long names and number those that are then the same."""
    cut: dict[str, int] = {}
    for name, rows in bars:
        short = name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 1]}…"
        while short in cut:
            short += "'"
        cut[short] = rows
    return list(cut.items())


def _tools(known: CorpusStatistics) -> list[Section]:
    tools = known.tools
    if not (tools.rows_offering or tools.rows_calling or tools.rows_requiring_json):
        return []
    counts = (
        ("rows that name or offer a tool", tools.rows_offering),
        ("rows with a tool call", tools.rows_calling),
        ("rows whose answer must be JSON", tools.rows_requiring_json),
    )
    shown = list(tools.names.items())[:_SHOWN_LABELS]
    rare = (tools.distinct or 0) - len(shown)
    rarer = [f"{rare:,} rarer tools are not shown."] if rare > 0 else []
    named = (_table("Tools by name", ("tool", "rows"), shown, rarer),) if shown else ()
    return [Section(heading="Tools", tables=(_table("Use of tools", ("what", "number"), counts), *named))]


def _findings(card: Card, drawn: bool) -> Section:
    found = card.statistics.findings
    if not found:
        return Section(heading="Findings", text=("No rule found anything.",))
    rows = [(rule.severity.value, rule.code, rule.rows, card.remedies.get(rule.code, "")) for rule in found]
    commonest = sorted(found, key=lambda rule: -rule.rows)[:_SHOWN_LABELS]
    bars = _distinct((f"{rule.code} ({rule.severity.value})", rule.rows) for rule in commonest)
    return Section(
        heading="Findings",
        text=("Every record was judged by every rule. An error set the record aside, a warning kept it.",),
        tables=(_table("By rule", ("severity", "rule", "rows", "what to do"), rows),),
        charts=_ranked("Findings by rule", "Rows in which each rule found something.", bars) if drawn else (),
    )


def _privacy(known: CorpusStatistics) -> Section:
    report = known.redactions
    if report is None:
        off = "Personal data and secrets were not looked for: the privacy pass was off. Look before you publish."
        return Section(heading="Personal data", text=(off,))
    replaced = (
        f"{report.rows_redacted:,} of {report.rows:,} records held personal data or secrets, which placeholders such as "
        f"<EMAIL_1> replace; {report.rows_set_aside:,} held too much and were set aside."
    )
    text = (
        replaced,
        f"Looked for: {', '.join(report.checked) or 'nothing'}. Not looked for: {', '.join(report.not_checked) or 'nothing'}.",
        "Patterns find what looks like personal data; they cannot promise that none is left.",
    )
    tables = (_table("Values replaced", ("kind", "values"), report.counts.items()),) if report.counts else ()
    return Section(heading="Personal data", text=text, tables=tables)


def _quality(found: QualityCount, drawn: bool) -> Section:
    width = 1 / len(found.bins)
    low = sum(found.bins[: round(_LOW_QUALITY / width)])
    bars = [(round(place * width, 4), round((place + 1) * width, 4), rows) for place, rows in enumerate(found.bins)]
    told = (
        f"A score from 0 to 1 by length, variety, language, encoding, ending and warnings; its mean is {found.mean:.2f}, and "
        f"{low:,} of {found.rows:,} rows are below {_LOW_QUALITY}."
    )
    charts = (histogram("Quality of rows", "Higher is better.", bars, x="quality score"),) if drawn else ()
    return Section(heading="Quality", text=(told,), charts=charts)


def _making(card: Card) -> Section:
    read = card.statistics.rows + card.statistics.rejected
    told = (
        f"By edgekiln {card.edgekiln}, which turns records into the training data of small language models, as dataset "
        f"{card.dataset}: {read:,} records were read. The same sources and settings give the same rows; all settings are in "
        f"{FILE}."
    )
    changed = _changed(card.config, DataConfig(sources=("",)).shaping())
    text = (told, "These differ from edgekiln's own:" if changed else "All settings are edgekiln's own.")
    code = json.dumps(changed, indent=1, ensure_ascii=False, sort_keys=True) if changed else ""
    return Section(heading="How it was made", text=text, code=code)


def _changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not the defaults, without what the card says elsewhere."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            if inner := _changed(value, default):
                found[name] = inner
        elif value != default and name not in _SAID:
            found[name] = value
    return found
