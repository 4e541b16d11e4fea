"""Models beside each other: figures, differences with their intervals, and their answers to every prompt."""

from __future__ import annotations

from collections.abc import Iterator

from core.compare.comparison import LOSS, Compared, Comparison
from core.compare.difference import CONFIDENCE
from core.compare.scoring import TASKS, Score
from core.data.record import Message
from core.report.page import Page, Section
from core.report.table import Cell, Column, Table

_MIB = 1 << 20
_TITLES = {
    LOSS: "loss",
    "exact_match": "exact match",
    "json_valid": "valid JSON",
    "schema_valid": "fits its schema",
    "tool_name": "right tool",
    "tool_arguments": "right arguments",
}
MEANING = (
    "Loss: nats a byte of the hoped-for answers, lower is better; it can be held against that of a model with another "
    "tokenizer. The others: percent of the prompts that ask for it, higher is better. Speed: all prompts together, here."
)


def models_table(comparison: Comparison) -> Table:
    """Return a row a model with its figures; a task no prompt asks for has no column."""
    tasks = [name for name in TASKS if any(name in model.metrics for model in comparison.models)]
    columns = (
        Column(key="model", title="model"),
        Column(key="size_mib", title="size", unit="MiB", digits=1, align="right"),
        Column(key="loss", title="loss", unit="nats/byte", digits=4, align="right"),
        *(Column(key=name, title=_TITLES[name], unit="%", digits=1, align="right") for name in tasks),
        Column(key="speed", title="speed", unit="tokens/s", digits=1, align="right"),
    )
    rows = tuple(_row(model, tasks) for model in comparison.models)
    title = f"{len(comparison.models)} models on {len(comparison.questions)} prompts of {comparison.asked_from}"
    return Table(title=title, columns=columns, rows=rows, notes=(MEANING,))


def _row(model: Compared, tasks: list[str]) -> tuple[Cell, ...]:
    shares = (100 * model.metrics[name] if name in model.metrics else None for name in tasks)
    return (model.name, model.bytes / _MIB, model.metrics.get(LOSS), *shares, model.tokens_per_s)


def differences_table(comparison: Comparison) -> Table:
    """Return a row a figure and model: how far it is from the first model, and what that is worth."""
    columns = (
        Column(key="model", title="model"),
        Column(key="figure", title="figure"),
        Column(key="prompts", title="prompts", align="right"),
        Column(key="difference", title="difference", digits=4, align="right"),
        Column(key="low", title="from", digits=4, align="right"),
        Column(key="high", title="to", digits=4, align="right"),
        Column(key="verdict", title="verdict"),
    )
    rows = tuple(
        (model.name, _TITLES[one.metric], one.prompts, one.difference, one.low, one.high, one.verdict)
        for model, told in zip(comparison.models[1:], comparison.differences, strict=True)
        for one in told
    )
    told = f"The interval is that of {CONFIDENCE:.0%} of a bootstrap over prompts; one that holds 0 is no clear difference."
    return Table(title=f"Against {comparison.models[0].name}", columns=columns, rows=rows, notes=(told,))


def comparison_page(comparison: Comparison) -> Page:
    """Return the comparison as a page: the tables, then every prompt with all answers."""
    worth = Section(heading="What each is worth", tables=(models_table(comparison), differences_table(comparison)))
    names = " and ".join(model.name for model in comparison.models)
    return Page(
        title="Models compared", lead=_lead(comparison), facts=(("models", names),), sections=(worth, *_answers(comparison))
    )


def _lead(comparison: Comparison) -> str:
    first = comparison.models[0].name
    said = []
    for model, told in zip(comparison.models[1:], comparison.differences, strict=True):
        better = [_TITLES[one.metric] for one in told if one.verdict == "better"]
        worse = [_TITLES[one.metric] for one in told if one.verdict == "worse"]
        parts = [f"better in {', '.join(better)}"] * bool(better) + [f"worse in {', '.join(worse)}"] * bool(worse)
        few = all(one.verdict == "too few prompts" for one in told)
        alike = "was asked too few prompts to tell it from" if few else "is not clearly different from"
        what = f"is {' and '.join(parts)} than" if parts else alike
        said.append(f"{model.name} {what} {first}.")
    return " ".join(said)


def _answers(comparison: Comparison) -> Iterator[Section]:
    for place, question in enumerate(comparison.questions):
        columns = [Column(key="who", title="who"), Column(key="answer", title="answer")]
        rows: list[tuple[Cell, ...]] = [("hoped for", _said(question.answer))]
        for model in comparison.models:
            given = model.answers[place]
            text = given.trouble or _said(Message(role="assistant", content=given.text, tool_calls=given.tool_calls))
            rows.append((model.name, text))
        if question.is_task:
            columns.append(Column(key="right", title="right"))
            judged = ["", *(_judged(model.scores[place]) for model in comparison.models)]
            rows = [(*row, right) for row, right in zip(rows, judged, strict=True)]
        asked = tuple(f"{message.role}: {_said(message)}" for message in question.messages)
        table = Table(title="Answers", columns=tuple(columns), rows=tuple(rows))
        yield Section(heading=f"Prompt {place + 1}, {question.row_id}", text=asked, tables=(table,))


def _said(message: Message) -> str:
    calls = (call.get("function", {}) for call in message.tool_calls)
    return "\n".join(
        [message.content] * bool(message.content) + [f"{one.get('name')}({one.get('arguments')})" for one in calls]
    )


def _judged(score: Score) -> str:
    wrong = [_TITLES[name] for name, right in score if right is False]
    return f"no: {', '.join(wrong)}" if wrong else "yes"
