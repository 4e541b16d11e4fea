"""Has a judge choose between the answers of a comparison's models, both orders of each pair, through the request ledger.

The judge, what it goes by and how it is asked are labelling's own (core/label/judging.py); what its choices add up to is in
verdicts.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import catalogue
from core.compare.answers import Given
from core.compare.comparison import Compared, Comparison
from core.compare.questions import Question, text_of
from core.compare.verdicts import Against, Choices, Judging, Outcome, against, preference
from core.config import LabelConfig, Profile, secret
from core.data.limits import PrivacyLimits
from core.data.privacy import redact
from core.data.record import Message
from core.errors import ArtifactError, BudgetReached, EdgekilnError, EnvironmentFault, TeacherFailed, UsageError
from core.events import Note, OnEvent
from core.files import digest_of
from core.label.entries import COMPARISON
from core.label.judging import Bench, hear, seat
from core.label.ledger import Ledger, open_ledger
from core.label.outcome import follow
from core.label.questions import Survey, look_up, name_finder
from core.label.request import Request
from core.label.section import Judge, Prices
from core.label.session import Session
from core.workspace import Workspace


@dataclass(frozen=True)
class Jury:
    """The judge of a comparison; with `privacy` personal data is replaced before it sees anything."""

    bench: Bench
    beside: Path
    privacy: PrivacyLimits | None

    @property
    def name(self) -> str:
        """The judge as it was named."""
        return self.bench.judge.teacher


def jury(name: str, profile: Profile, beside: Path, on_event: OnEvent) -> Jury:
    """Return the judge of a name: the profile's own, else a known model, asked as the profile's label section says.

    BadConfig for a model nobody knows, UsageError for one whose endpoint nobody named, ToolMissing without its key.
    """
    config = profile.label
    judge, prices = _judge(name, config, beside)
    if judge.api_key_env is not None:
        secret(judge.api_key_env)
    bench = seat(judge, config, on_event, beside)
    priced = bench.config.model_copy(update={"prices": prices})
    return Jury(replace(bench, config=priced), beside, profile.data.privacy if config.redact else None)


def _judge(name: str, config: LabelConfig, beside: Path) -> tuple[Judge, Prices | None]:
    """Return the judge, and the prices of the profile where they are its own: those of a labelling are its teacher's."""
    if (own := config.samples.judge) is not None and own.teacher == name:
        return own, config.prices if name == config.teacher else None
    card = catalogue.model(name, beside)
    if catalogue.is_gguf(card.source):
        return Judge(teacher=name, backend="llama-cpp"), config.prices
    if config.base_url is None:
        raise UsageError(
            f"--judge {name} is asked behind an endpoint, and none is named",
            remedy="Name it: --set label.base_url=http://127.0.0.1:8080/v1, or --profile with a label section that has one.",
        )
    return Judge(teacher=name, base_url=config.base_url, api_key_env=config.api_key_env), config.prices


def judged(
    comparison: Comparison, jury: Jury, workspace: Workspace, on_event: OnEvent
) -> tuple[Comparison, EdgekilnError | None]:
    """Return the comparison with the judge's verdicts, and what kept it from giving all of them, None for nothing.

    What was answered is kept in the workspace's ledger and never asked again; what it took counts for `label.budget`.
    """
    pairs = [_pairs(jury, comparison, other) for other in comparison.models[1:]]
    try:
        with open_ledger(workspace.ledger("label")) as ledger:
            return _with_verdicts(comparison, jury, pairs, ledger, on_event)
    except (ArtifactError, EnvironmentFault) as error:
        on_event(Note(stage=None, text=f"nothing was judged: {error.problem}", level="warning"))
        return comparison, error


@dataclass(frozen=True)
class _Pair:
    """Two answers to one prompt, to be judged in both orders, or settled without; neither where they may not be sent."""

    forward: Request | None = None
    backward: Request | None = None
    settled: Outcome | None = None


def _pairs(jury: Jury, comparison: Comparison, other: Compared) -> list[_Pair]:
    answers = zip(comparison.questions, comparison.models[0].answers, other.answers, strict=True)
    return [_pair(jury, question, _said(one), _said(its)) for question, one, its in answers]


def _pair(jury: Jury, question: Question, one: str, its: str) -> _Pair:
    if one == its:
        return _Pair(settled="tied")
    if not (one and its):
        return _Pair(settled="won" if its else "lost")
    asked = "\n\n".join(filter(None, map(text_of, question.messages)))
    texts: list[str] | None = [asked, one, its]
    if jury.privacy is not None:
        texts = redact(texts, jury.privacy, name_finder(jury.privacy)).tree
    if texts is None:
        return _Pair()
    asked, one, its = texts
    return _Pair(jury.bench.between(asked, (one, its)), jury.bench.between(asked, (its, one)))


def _said(given: Given) -> str:
    return text_of(Message(role="assistant", content=given.text, tool_calls=given.tool_calls))


def _with_verdicts(
    comparison: Comparison, jury: Jury, pairs: Sequence[list[_Pair]], ledger: Ledger, on_event: OnEvent
) -> tuple[Comparison, EdgekilnError | None]:
    requests = list({request.key: request for request in _requests(pairs)}.values())
    survey = Survey()
    for request in requests:
        look_up(request, ledger, survey)
    named = f"{COMPARISON}{digest_of([request.key for request in requests])[:12]}"
    session = Session(ledger, named, on_event, jury.beside)
    trouble = _heard(jury, requests, survey, session)
    found = [against([_choices(jury.bench, pair, ledger) for pair in told]) for told in pairs]
    trouble = trouble or _silence(jury, requests, ledger)
    spent, prices = ledger.spent(named), jury.bench.config.prices
    judging = Judging(
        judge=jury.name,
        identity=jury.bench.identity,
        rubric=jury.bench.judge.rubric,
        reused=survey.settled,
        spent=spent,
        cost=spent.cost if prices is not None else None,
        currency=prices.currency if prices is not None else None,
        trouble=trouble.problem if trouble else None,
        against=tuple(found),
    )
    return _told_of(comparison, judging, found), trouble


def _requests(pairs: Sequence[list[_Pair]]) -> Iterator[Request]:
    for told in pairs:
        for pair in told:
            yield from filter(None, (pair.forward, pair.backward))


def _heard(jury: Jury, requests: Sequence[Request], survey: Survey, session: Session) -> EdgekilnError | None:
    """Ask what is open; what stops the asking is returned, as what was answered before it counts."""
    missing = [request for request, is_open in zip(requests, survey.is_open, strict=True) if is_open]
    if not missing:
        return None
    try:
        with session.open(jury.name, survey) as step:
            hear(jury.bench, iter(missing), session, step)
    except (TeacherFailed, BudgetReached, EnvironmentFault) as error:
        return error
    return None


def _choices(bench: Bench, pair: _Pair, ledger: Ledger) -> Choices:
    forward, backward = (bench.best(one, ledger) if one is not None else None for one in (pair.forward, pair.backward))
    return Choices(forward, backward, pair.settled)


def _silence(jury: Jury, requests: Sequence[Request], ledger: Ledger) -> TeacherFailed | None:
    """Return the error of a judge that was asked and gave no verdict at all."""
    problems = [found.problem for found in (follow(request, ledger) for request in requests)]
    if not problems or not all(problems):
        return None
    last = problems[-1].reason if problems[-1] else ""
    return TeacherFailed(
        f"the judge {jury.name} gave no verdict on any of {len(requests)} pairs of answers, the last: {last}",
        remedy='It must answer with JSON such as {"best": 1}. Name a stronger judge.',
    )


def _told_of(comparison: Comparison, judging: Judging, found: Sequence[Against]) -> Comparison:
    differences = tuple(
        (*told, one) if (one := preference(its)) is not None else told
        for told, its in zip(comparison.differences, found, strict=True)
    )
    return comparison.model_copy(update={"judging": judging, "differences": differences})
