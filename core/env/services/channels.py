"""Looks at the alert channels a profile names: is the variable set, does Apprise understand it. Nothing is sent."""

from __future__ import annotations

from typing import Any

from core.alerts.send import open_channel
from core.config import secret
from core.contract import Contract
from core.errors import ToolMissing


class Channel(Contract):
    """One channel by the name of its variable; `problem` None is a good one. Its value is a secret and is not told."""

    name: str
    problem: str | None


class ChannelsReading(Contract):
    """All of them, in the profile's order."""

    channels: tuple[Channel, ...]


def read(argument: dict[str, Any]) -> ChannelsReading:
    """Parse the channels; argument: `names`, the variables."""
    return ChannelsReading(channels=tuple(Channel(name=name, problem=_problem(name)) for name in argument["names"]))


def _problem(name: str) -> str | None:
    try:
        channel = open_channel(secret(name))
    except ToolMissing as error:
        return error.problem
    return "its value is no Apprise URL" if channel is None else None
