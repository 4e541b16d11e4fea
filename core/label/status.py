"""How a labelling stands, from the ledger alone: counts, tokens, cost, rate, and when it will be done, as a range."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from core.contract import Contract
from core.label.entries import COMPARISON, SessionRow, Spent
from core.label.ledger import Ledger

_RECENT = 400
_WINDOWS = 8  # their rates' lowest and highest make the range
_LEAST_A_WINDOW = 4


class Rate(Contract):
    """Answers a second of late: over all of the newest ones, and of the slowest and fastest stretch among them."""

    mean: float
    lowest: float
    highest: float


class LabelStatus(Contract):
    """The newest session of a ledger, with what all sessions of its labelling took.

    `waiting` counts questions without an answer. The times to the end are in seconds and None where too few answers came.
    """

    session: SessionRow
    waiting: int
    spent: Spent
    rate: Rate | None
    eta_soonest_s: float | None
    eta_latest_s: float | None


def status(ledger: Ledger) -> LabelStatus | None:
    """Return how the newest labelling stands, None when there never was one; the judging of comparisons is none."""
    if not (sessions := [one for one in ledger.sessions() if not one.artifact_id.startswith(COMPARISON)]):
        return None
    newest = sessions[0]
    waiting = max(0, newest.questions - newest.reused - newest.done)
    rate = rate_of(ledger.recent(newest.session, _RECENT))
    return LabelStatus(
        session=newest,
        waiting=waiting,
        spent=ledger.spent(newest.artifact_id),
        rate=rate,
        eta_soonest_s=waiting / rate.highest if rate else None,
        eta_latest_s=waiting / rate.lowest if rate else None,
    )


def rate_of(moments: Sequence[datetime]) -> Rate | None:
    """Return the rate at which answers came, newest first; None for too few, or when all came at one moment."""
    size = max(_LEAST_A_WINDOW, len(moments) // _WINDOWS)
    starts = range(0, len(moments) - size, size)
    windows = [size / taken for start in starts if (taken := _between_s(moments[start + size], moments[start])) > 0]
    if not windows:
        return None
    mean = (len(moments) - 1) / _between_s(moments[-1], moments[0])
    return Rate(mean=mean, lowest=min(*windows, mean), highest=max(*windows, mean))


def _between_s(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()
