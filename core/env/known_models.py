"""The students and teachers that are known: cards, what their files here say, and the hub's. Ranked in model_ranking.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

from core import catalogue
from core.catalogue import DeviceCard, ModelCard
from core.config import Profile
from core.contract import Contract
from core.env.accelerators import NVML_PROBE
from core.env.capability import Readings, value_of
from core.env.fit import room_of
from core.env.hub_models import HubReading, HubRequest
from core.env.machine.system import ThisMachine, usable_ram_bytes
from core.env.model_ranking import Candidate, Places, Ranked, candidate_of, rank
from core.env.probe import Probe, run_probes
from core.env.remote_board import Board
from core.env.student import StudentsReading, StudentsRequest
from core.events import OnEvent, ignore

_SYSTEM, _STUDENTS, _BOARD, _HUB = "machine.system", "students", "board.system", "hub"
_LOCAL_S, _BOARD_S, _HUB_S = 20.0, 30.0, 45.0
_FAMILIES = ("qwen2", "qwen3", "llama")  # those whose memory can be told from config.json (core/shape.py)
_FROM_EACH = 8
_MOST_PARAMETERS = 4_000_000_000  # larger ones answer slower than one reads on a small board


class Ranking(Contract):
    """Models in their order for a profile with its batch, and what could not be looked at."""

    profile: str
    batch: int
    models: tuple[Ranked, ...]
    notes: tuple[str, ...]


def rank_known(profile: Profile, beside: Path, *, hub: bool, on_event: OnEvent = ignore) -> Ranking:
    """Read this machine, the profile's board and, with `hub`, the Hugging Face hub, and rank every model that is known."""
    cards = [catalogue.model(name, beside) for name in catalogue.names("models", beside)]
    board = catalogue.device(profile.bench.device, beside)
    with tempfile.TemporaryDirectory(prefix="edgekiln-env-") as scratch:
        readings = run_probes(_probes(cards, board, hub=hub), Path(scratch), on_event)
    return ranking(profile, cards, board, readings)


def _probes(cards: list[ModelCard], board: DeviceCard, *, hub: bool) -> list[Probe]:
    asked = StudentsRequest(cards=tuple(cards)).model_dump(mode="json")
    listed = [
        Probe(name=_SYSTEM, target="core.env.machine.system:read", argument={"variables": {}}, timeout_s=_LOCAL_S),
        Probe(name=NVML_PROBE, target="core.env.gpu:read", timeout_s=_LOCAL_S),
        Probe(name=_STUDENTS, target="core.env.student:read_several", argument=asked, timeout_s=_LOCAL_S),
    ]
    if board.kind == "ssh":
        argument = {"card": board.model_dump(mode="json")}
        listed.append(Probe(name=_BOARD, target="core.env.remote_board:read", argument=argument, timeout_s=_BOARD_S))
    if hub:
        request = HubRequest(each=_FROM_EACH, most_parameters=_MOST_PARAMETERS, families=_FAMILIES)
        argument = request.model_dump(mode="json")
        listed.append(Probe(name=_HUB, target="core.env.hub_models:read", argument=argument, timeout_s=_HUB_S))
    return listed


def ranking(profile: Profile, cards: list[ModelCard], board: DeviceCard, readings: Readings) -> Ranking:
    """Return the ranking that readings give."""
    places = _places(profile, board, readings)
    candidates = [*_from_cards(cards, readings), *_from_hub(cards, readings)]
    models = rank(candidates, profile, places)
    batch = profile.train.per_device_train_batch_size
    return Ranking(profile=profile.name, batch=batch, models=tuple(models), notes=tuple(_notes(profile, places, readings)))


def _places(profile: Profile, board: DeviceCard, readings: Readings) -> Places:
    here = value_of(readings, _SYSTEM, ThisMachine)
    usable = usable_ram_bytes(here.system.host) if here else None
    told = usable
    if board.kind == "ssh":
        found = value_of(readings, _BOARD, Board)
        told = usable_ram_bytes(found.system.host) if found else None
    return Places(training=room_of(readings, profile.train), here_bytes=usable, board_bytes=told, board=board.name)


def _from_cards(cards: list[ModelCard], readings: Readings) -> list[Candidate]:
    """Return the cards, with the shape their own config.json tells where it lies here."""
    read = value_of(readings, _STUDENTS, StudentsReading)
    by_name = {student.name: student for student in read.students} if read else {}
    found = []
    for card in cards:
        candidate, student = candidate_of(card), by_name.get(card.name)
        if student is not None and student.config is not None and student.shape is not None:
            told = {"shape": student.shape, "parameters": student.shape.parameters(), "source": "config.json"}
            candidate = candidate.model_copy(update=told)
        found.append(candidate)
    return found


def _from_hub(cards: list[ModelCard], readings: Readings) -> list[Candidate]:
    """Return the hub's models that no card names."""
    read = value_of(readings, _HUB, HubReading)
    carded = {card.source.repo for card in cards if card.source.kind == "hub"}
    offers = [offer for offer in read.offers if offer.repo not in carded] if read else []
    return [
        Candidate(
            name=offer.repo,
            roles=("student",),
            parameters=offer.parameters,
            shape=offer.shape,
            remote=False,
            source="hub",
        )
        for offer in offers
    ]


def _notes(profile: Profile, places: Places, readings: Readings) -> list[str]:
    """Return what the figures hold for, and what could not be looked at."""
    train, bench = profile.train, profile.bench
    notes = []
    if places.training is None:
        notes.append("where it trains: memory not known, so no estimate")
    else:
        notes.append(
            f"training: {train.quantisation}, r {train.lora.r}, batch {train.per_device_train_batch_size} of "
            f"{train.max_length} tokens, {places.training.total_bytes / (1 << 30):.1f} GiB on {places.training.name}"
        )
    told = "not known" if places.board_bytes is None else f"{places.board_bytes / (1 << 30):.1f} GiB"
    notes.append(f"inference: {bench.n_prompt + bench.n_gen} tokens of context on {places.board}, {told}")
    hub = readings.get(_HUB)
    if hub is None:
        notes.append("the Hugging Face hub was not asked")
    elif hub.error is not None:
        notes.append(f"the Hugging Face hub could not be asked: {hub.error}")
    return notes
