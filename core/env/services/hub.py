"""Asks the Hugging Face hub for the models a profile takes from it, and whether it takes the token. Fetches no weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.catalogue import HubModel
from core.config import environment_variables, hf_home, hub_cache
from core.contract import Contract
from core.env.services.web import Way, get, shown, way_to

_ENDPOINT = "https://huggingface.co"
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # in the order huggingface_hub looks for them


class HubAsked(Contract):
    """The models by their names, and the seconds one answer may take."""

    models: dict[str, HubModel]
    within_s: float


class HubModelReading(Contract):
    """One model: `status` is the hub's answer, `cached` the folder its weights lie in here, `token` where its token is from."""

    name: str
    repo: str
    revision: str
    status: int | None
    problem: str | None
    cached: str | None
    token: str | None
    gated: bool


class HubReading(Contract):
    """The hub's address, the way to it, and every model asked for."""

    url: str
    way: Way
    models: tuple[HubModelReading, ...]
    token: str | None = None
    token_refused: str | None = None


def read(argument: dict[str, Any]) -> HubReading:
    """Ask the hub; argument: HubAsked. HF_ENDPOINT names another hub."""
    asked = HubAsked.model_validate(argument)
    url = environment_variables(["HF_ENDPOINT"]).get("HF_ENDPOINT", _ENDPOINT).rstrip("/")
    way = way_to(url, asked.within_s / 2)
    models = tuple(_model(name, source, url, way, asked.within_s) for name, source in sorted(asked.models.items()))
    source, value = _token(None)
    refused = None
    if way.kind == "open" and value is not None:
        answer = get(f"{url}/api/whoami-v2", asked.within_s, {"Authorization": f"Bearer {value}"})
        refused = answer.problem if answer.status in {401, 403} else None
    return HubReading(url=shown(url), way=way, models=models, token=source, token_refused=refused)


def _model(name: str, source: HubModel, url: str, way: Way, within_s: float) -> HubModelReading:
    where, value = _token(source.token_env)
    status, problem, gated = None, way.problem, False
    if way.kind == "open":
        path = f"{url}/api/models/{quote(source.repo)}/revision/{quote(source.revision, safe='')}"
        answer = get(path, within_s, {"Authorization": f"Bearer {value}"} if value else None)
        status, problem = answer.status, answer.problem
        gated = isinstance(answer.body, dict) and bool(answer.body.get("gated"))
        if problem is None and not isinstance(answer.body, dict):
            problem = "its answer is no model's description"
    return HubModelReading(
        name=name,
        repo=source.repo,
        revision=source.revision,
        status=status,
        problem=problem,
        cached=_cached(source),
        token=where,
        gated=gated,
    )


def _token(named: str | None) -> tuple[str | None, str | None]:
    """Return where a token is from, and the token: the variable a card names, the library's own variables, its file."""
    held = environment_variables([named] if named else _TOKENS)
    for name in [named] if named else _TOKENS:
        if name in held:
            return name, held[name]
    if named:
        return None, None
    path = Path(environment_variables(["HF_TOKEN_PATH"]).get("HF_TOKEN_PATH", hf_home() / "token"))
    try:
        value = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None, None
    return (str(path), value) if value else (None, None)


def _cached(source: HubModel) -> str | None:
    """Return the folder of the hub's cache where a revision's weights lie already."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, "config.json", cache_dir=hub_cache(), revision=source.revision)
    if not isinstance(found, str) or not any(Path(found).parent.glob("*.safetensors")):
        return None
    return str(Path(found).parent)
