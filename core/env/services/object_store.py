"""Tries out the object store a profile names: is it reached, does it take the key, does it keep to conditional writes."""

from __future__ import annotations

import time
from typing import Any

from core.contract import Contract
from core.env.services.web import Way, way_to
from core.errors import EdgekilnError
from core.remote.settings import RemoteConfig
from core.remote.store import Store


class StoreReading(Contract):
    """What came of it; `code` and `problem` are an error's, None for a store that answered."""

    where: str
    code: str | None = None
    problem: str | None = None
    remedy: str = ""
    checks_sha256: bool = False
    conditional: bool = False
    seconds: float
    way: Way | None = None


class StoreAsked(Contract):
    """The section of the profile and the time there is."""

    remote: RemoteConfig
    within_s: float


def read(argument: dict[str, Any]) -> StoreReading:
    """Write, read and take away a few bytes; argument: `StoreAsked`."""
    asked = StoreAsked.model_validate(argument)
    endpoint = asked.remote.endpoint_url
    way = way_to(endpoint, asked.within_s) if endpoint else None
    limits = {name: min(getattr(asked.remote, name), asked.within_s / 2) for name in ("connect_timeout_s", "timeout_s")}
    config = asked.remote.model_copy(update={**limits, "attempts": 1})
    began = time.perf_counter()
    try:
        with Store(config) as store:
            traits = store.traits()
    except EdgekilnError as error:
        seconds = time.perf_counter() - began
        told = {"code": error.code, "problem": error.problem, "remedy": error.remedy}
        return StoreReading(where=str(asked.remote.url), seconds=seconds, way=way, **told)
    seconds = time.perf_counter() - began
    seen = {"checks_sha256": traits.checks_sha256, "conditional": traits.conditional}
    return StoreReading(where=store.where, seconds=seconds, way=way, **seen)
