"""How a labelling stands, from the ledger alone: counts, tokens, cost, rate, and when it will be done, as a range."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from core.contract import Contract
from core.label.entries import COMPARISON, SessionRow, Spent
from core.label.ledger import Ledger

_RECENT = 400
_WINDOWS = 8  # their rates' lowest and highest make the range
_LEAST_A_WINDOW = 4
_LEAST_SILENCE_S = 60.0
_SILENT_WINDOWS = 2.0  # so many times the slowest stretch without a word: what came before says nothing any more


class Rate(Contract):
    """Answers a second of late: over all of the newest ones, and of the slowest and fastest stretch among them."""

    mean: float
    lowest: float
    highest: float


class LabelStatus(Contract):
    """The newest session of a ledger, with what all sessions of its labelling took.

    `waiting` counts questions without an answer. The times to the end are in seconds; where they cannot be told they are
    None, and `eta_unknown` says why.
    """

    session: SessionRow
    waiting: int
    spent: Spent
    rate: Rate | None
    eta_soonest_s: float | None
    eta_latest_s: float | None
    eta_unknown: str | None


def status(ledger: Ledger) -> LabelStatus | None:
    """Return how the newest labelling stands, None when there never was one; the judging of comparisons is none."""
    if not (sessions := [one for one in ledger.sessions() if not one.artifact_id.startswith(COMPARISON)]):
        return None
    newest = sessions[0]
    waiting = max(0, newest.questions - newest.reused - newest.done)
    moments_s = ledger.recent(newest.session, _RECENT)
    rate = rate_of(moments_s)
    unknown = "too few answers yet" if rate is None else _silence(newest, rate, len(moments_s))
    known = rate if unknown is None else None
    return LabelStatus(
        session=newest,
        waiting=waiting,
        spent=ledger.spent(newest.artifact_id),
        rate=rate,
        eta_soonest_s=waiting / known.highest if known else None,
        eta_latest_s=waiting / known.lowest if known else None,
        eta_unknown=unknown,
    )


def rate_of(moments_s: Sequence[float]) -> Rate | None:
    """Return the rate at which answers came, newest first; None for too few, or when all came at one moment."""
    size = _window(len(moments_s))
    starts = range(0, len(moments_s) - size, size)
    windows = [size / taken for start in starts if (taken := moments_s[start] - moments_s[start + size]) > 0]
    if not windows:
        return None
    mean = (len(moments_s) - 1) / (moments_s[0] - moments_s[-1])
    return Rate(mean=mean, lowest=min(*windows, mean), highest=max(*windows, mean))


def _window(answers: int) -> int:
    return max(_LEAST_A_WINDOW, answers // _WINDOWS)


def _silence(session: SessionRow, rate: Rate, answers: int) -> str | None:
    """Return for how long nothing came, None while that is as before; a session that is over has a right to be silent."""
    silent_s = (datetime.now(UTC) - session.seen_at).total_seconds()
    usual_s = _SILENT_WINDOWS * _window(answers) / rate.lowest
    if session.ended is not None or silent_s <= max(_LEAST_SILENCE_S, usual_s):
        return None
    return f"no answer for {silent_s / 60:.0f} min by the clock on the wall"
