"""Small instruct models that the Hugging Face hub offers, with their shapes. Asked in a process of its own; offline says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.contract import Contract
from core.shape import ModelShape, shape_of

_FIRST_S = 5.0
_TAGS = ["text-generation", "conversational", "safetensors"]


class HubRequest(Contract):
    """How many models to take and the most parameters one may have; `families` are the kinds asked for, each in its turn."""

    each: int
    most_parameters: int
    families: tuple[str, ...]


class HubOffer(Contract):
    """One model of the hub; `shape` is None where its config.json is another family's."""

    repo: str
    parameters: int
    downloads: int
    shape: ModelShape | None


class HubReading(Contract):
    """What the hub offers, most downloaded first."""

    endpoint: str
    offers: tuple[HubOffer, ...]


def read(argument: dict[str, Any]) -> HubReading:
    """Ask the hub; argument: HubRequest. What huggingface_hub raises without a network is the probe's error."""
    from huggingface_hub import HfApi

    return ask(HfApi(), HubRequest.model_validate(argument))


def ask(api: Any, request: HubRequest) -> HubReading:
    """Ask a hub for each family's most downloaded open models and their config.json."""
    from huggingface_hub import get_session

    # once without its retries, which wait 20 s for a network that is not there
    get_session().head(f"{api.endpoint}/api/models", params={"limit": 1}, timeout=_FIRST_S)
    found = {offer.repo: offer for family in request.families for offer in _offers(api, family, request)}
    ordered = sorted(found.values(), key=lambda offer: -offer.downloads)
    return HubReading(endpoint=str(api.endpoint), offers=tuple(ordered))


def _offers(api: Any, family: str, request: HubRequest) -> list[HubOffer]:
    listed = api.list_models(
        filter=[*_TAGS, family], sort="downloads", limit=request.each, expand=["downloads", "safetensors", "gated"]
    )
    offers = []
    for model in listed:
        parameters = model.safetensors.total if model.safetensors else None
        if parameters is None or parameters > request.most_parameters or model.gated:
            continue
        shape = shape_of(_config(api, model.id))
        offers.append(HubOffer(repo=model.id, parameters=parameters, downloads=model.downloads or 0, shape=shape))
    return offers


def _config(api: Any, repo: str) -> dict[str, Any]:
    found = json.loads(Path(api.hf_hub_download(repo, "config.json")).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
