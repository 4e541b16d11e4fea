"""Asks the Prefect server that runs here would use for its health and version. Prefect itself is not imported.

Read are PREFECT_API_URL and the active profile of Prefect's profiles.toml; without either a run starts a server of its own.
"""

from __future__ import annotations

import base64
import os
import tomllib
from pathlib import Path
from typing import Any

from core.config import environment_variables
from core.contract import Contract
from core.env.services.web import Answer, Way, get, shown, way_to

_URL = "PREFECT_API_URL"
_VARIABLES = (
    _URL,
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_HOME",
)


class PrefectReading(Contract):
    """The server's address without its password and where it stands; `url` None is none. `key` is the name of the variable that was sent."""

    url: str | None
    source: str | None = None
    way: Way | None = None
    status: int | None = None
    problem: str | None = None
    version: str | None = None
    key: str | None = None


def read(argument: dict[str, Any]) -> PrefectReading:
    """Ask the server; argument: `within_s`."""
    settings, source = prefect_settings()
    url = settings.get(_URL)
    if not url:
        return PrefectReading(url=None)
    within_s = float(argument["within_s"])
    way = way_to(url, within_s / 2)
    if way.kind != "open":
        return PrefectReading(url=shown(url), source=source, way=way, problem=way.problem)
    key, headers = _authorization(settings)
    health = get(f"{url.rstrip('/')}/health", within_s, headers)
    version = get(f"{url.rstrip('/')}/admin/version", within_s, headers)
    return PrefectReading(
        url=shown(url),
        source=source,
        way=way,
        status=health.status,
        problem=_problem(health, version),
        version=version.body if isinstance(version.body, str) else None,
        key=key,
    )


def _problem(health: Answer, version: Answer) -> str | None:
    if health.problem or version.status in {401, 403}:
        return health.problem or version.problem
    return None if health.body is True else f"its health is {str(health.body)[:80]}"


def prefect_settings() -> tuple[dict[str, str], str | None]:
    """Return Prefect's settings as far as they matter here, and where its address stands."""
    variables = environment_variables(_VARIABLES)
    if _URL in variables:
        return variables, _URL
    home = Path(os.path.expanduser(variables.get("PREFECT_HOME", "~/.prefect")))  # noqa: PTH111 - no error without a home
    path = Path(variables.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return variables, None
    active = variables.get("PREFECT_PROFILE") or tree.get("active")
    profiles = tree.get("profiles")
    profile = profiles.get(active) if isinstance(profiles, dict) else None
    named = {key: str(value) for key, value in profile.items()} if isinstance(profile, dict) else {}
    return {**named, **variables}, f"profile {active} of {path}" if _URL in named else None


def _authorization(settings: dict[str, str]) -> tuple[str | None, dict[str, str]]:
    if key := settings.get("PREFECT_API_KEY"):
        return "PREFECT_API_KEY", {"Authorization": f"Bearer {key}"}
    if pair := settings.get("PREFECT_API_AUTH_STRING"):
        return "PREFECT_API_AUTH_STRING", {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return None, {}
