"""Models beside each other: figures, differences with their intervals, and their answers to every prompt."""

from __future__ import annotations

from collections.abc import Iterator

from core.compare.comparison import LOSS, Compared, Comparison
from core.compare.difference import CONFIDENCE
from core.compare.questions import text_of
from core.compare.scoring import TASKS, Score
from core.compare.verdicts import JUDGE, Against, Judging
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
    JUDGE: "judge's choice",
}
MEANING = (
    "Loss: nats a byte of the hoped-for answers, lower is better; it can be held against that of a model with another "
    "tokenizer. The others: percent of the prompts that ask for it, higher is better. Speed: all prompts together, here."
)
JUDGED = (
    "A judge chose between the two answers to each prompt, in both orders. Won and lost: both orders chose the same answer; tied: "
    "they did not, or the answers are the same. A judge that tosses a coin agrees with itself in 50 %, and one that is not swayed "
    "by the place chose what stood first in 50 %."
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
    asked = len(comparison.questions)
    title = f"{len(comparison.models)} models on {_prompts(asked)} of {comparison.asked_from}"
    return Table(title=title, columns=columns, rows=rows, notes=(MEANING, *_left_out(comparison)))


def _prompts(count: int) -> str:
    return f"{count} prompt{'s' * (count != 1)}"


def _left_out(comparison: Comparison) -> Iterator[str]:
    """Yield what the figures of a model do not cover: prompts it did not answer, hoped-for answers that were not scored."""
    for model in comparison.models:
        silent = [given.trouble for given in model.answers if given.trouble is not None]
        if silent:
            yield f"{model.name} gave no answer to {_prompts(len(silent))}, the first: {silent[0]}"
        if unscored := sum(given.nats is None for given in model.answers):
            yield f"{model.name} has no loss on {_prompts(unscored)}: no text was hoped for, or it is too long"


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


def judge_table(comparison: Comparison, judging: Judging) -> Table:
    """Return a row a later model: how often the judge chose its answer, and how far the judge can be trusted."""
    columns = (
        Column(key="model", title="model"),
        *(Column(key=key, title=key, align="right") for key in ("won", "tied", "lost")),
        Column(key="unjudged", title="no verdict", align="right"),
        Column(key="agreement", title="both orders agree", unit="%", digits=1, align="right"),
        Column(key="shown_first", title="chose what stood first", unit="%", digits=1, align="right"),
    )
    rows = tuple(
        (model.name, told.won, told.tied, told.lost, told.unjudged, _percent(told.agreement), _percent(told.shown_first))
        for model, told in zip(comparison.models[1:], judging.against, strict=True)
    )
    title = f"Against {comparison.models[0].name}, judged by {judging.judge}"
    return Table(title=title, columns=columns, rows=rows, notes=(JUDGED, _taken(judging), *_trouble(judging)))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _taken(judging: Judging) -> str:
    spent = judging.spent
    cost = "an unknown cost: label.prices is not set" if judging.cost is None else f"{judging.cost:.4f} {judging.currency}"
    return (
        f"The judge's rubric: {judging.rubric} It took {spent.requests} requests, {spent.tokens} tokens, {cost}; "
        f"{judging.reused} verdicts were known before."
    )


def _trouble(judging: Judging) -> list[str]:
    return [f"Not all was judged: {judging.trouble}"] if judging.trouble else []


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """Return all tables of a comparison: what each model is worth, how far it is from the first, what the judge chose."""
    told = (judge_table(comparison, comparison.judging),) if comparison.judging is not None else ()
    return (models_table(comparison), differences_table(comparison), *told)


def comparison_page(comparison: Comparison) -> Page:
    """Return the comparison as a page: the tables, then every prompt with all answers."""
    worth = Section(heading="What each is worth", tables=comparison_tables(comparison))
    names = " and ".join(model.name for model in comparison.models)
    return Page(
        title="Models compared", lead=_lead(comparison), facts=(("models", names),), sections=(worth, *_answers(comparison))
    )


def _lead(comparison: Comparison) -> str:
    first = comparison.models[0].name
    said: list[str] = []
    for model, told in zip(comparison.models[1:], comparison.differences, strict=True):
        better = [_TITLES[one.metric] for one in told if one.verdict == "better"]
        worse = [_TITLES[one.metric] for one in told if one.verdict == "worse"]
        parts = [f"better in {', '.join(better)}"] * bool(better) + [f"worse in {', '.join(worse)}"] * bool(worse)
        few = all(one.verdict == "too few prompts" for one in told)
        alike = "was asked too few prompts to tell it from" if few else "is not clearly different from"
        alike = alike if told else "has no figure in common with"
        what = f"is {' and '.join(parts)} than" if parts else alike
        said.append(f"{model.name} {what} {first}.")
    return " ".join(said)


def _answers(comparison: Comparison) -> Iterator[Section]:
    for place, question in enumerate(comparison.questions):
        columns = [Column(key="who", title="who"), Column(key="answer", title="answer")]
        rows: list[tuple[Cell, ...]] = [("hoped for", text_of(question.answer))]
        for model in comparison.models:
            given = model.answers[place]
            text = given.trouble or text_of(Message(role="assistant", content=given.text, tool_calls=given.tool_calls))
            rows.append((model.name, text))
        if question.is_task:
            columns.append(Column(key="right", title="right"))
            judged = ["", *(_judged(model.scores[place]) for model in comparison.models)]
            rows = [(*row, right) for row, right in zip(rows, judged, strict=True)]
        if comparison.judging is not None:
            columns.append(Column(key="judge", title="judge"))
            chosen = ["", "", *(_chosen(told, place) for told in comparison.judging.against)]
            rows = [(*row, choice) for row, choice in zip(rows, chosen, strict=True)]
        asked = tuple(f"{message.role}: {text_of(message)}" for message in question.messages)
        table = Table(title="Answers", columns=tuple(columns), rows=tuple(rows))
        yield Section(heading=f"Prompt {place + 1}, {question.row_id}", text=asked, tables=(table,))


def _judged(score: Score) -> str:
    wrong = [_TITLES[name] for name, right in score if right is False]
    return f"no: {', '.join(wrong)}" if wrong else "yes"


def _chosen(told: Against, place: int) -> str:
    outcome = told.outcomes[place]
    return "no verdict" if outcome is None else f"{outcome} against the first"
