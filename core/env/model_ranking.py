"""The known students and teachers, ranked by whether and how well they fit this machine and the profile's board. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.catalogue import EndpointModel, ModelCard
from core.config import Profile
from core.contract import Contract
from core.env.fit import Room
from core.env.memory_need import Job, inference_bytes, largest_batch, training_need
from core.label.in_process import CACHE_TOKENS
from core.shape import ModelShape

_SYSTEM_BYTES = 256 << 20  # what a lean Linux without a desktop holds on a board
_LABEL_KIND = "Q4_K_M"  # a teacher in this process is a GGUF; the type most of them are offered in


@dataclass(frozen=True)
class Places:
    """Where a model would work: trained in `training`, kept in RAM here and on the board; None where it cannot be read."""

    training: Room | None
    here_bytes: int | None
    board_bytes: int | None
    board: str


class Candidate(Contract):
    """A model and what is known of its shape; `source` says from where."""

    name: str
    roles: tuple[str, ...]
    parameters: int | None
    shape: ModelShape | None
    remote: bool
    source: str


class Ranked(Contract):
    """A model's memory in bytes beside what there is, and whether it fits; None is not known.

    `largest_batch` is of rows as long as the profile's max_length; `board_kind` is the best quantisation of the profile
    that fits the board.
    """

    candidate: Candidate
    training_bytes: int | None
    largest_batch: int | None
    inference_bytes: int | None
    board_kind: str | None
    fits: bool | None


def candidate_of(card: ModelCard) -> Candidate:
    """Return a card as a candidate."""
    return Candidate(
        name=card.name,
        roles=card.roles,
        parameters=card.parameters,
        shape=card.shape,
        remote=isinstance(card.source, EndpointModel),
        source="card",
    )


def rank(candidates: Iterable[Candidate], profile: Profile, places: Places) -> list[Ranked]:
    """Return models that fit first and the larger ones before the smaller, then the unknown, then what does not fit."""
    ranked = [_ranked(candidate, profile, places) for candidate in candidates]
    order = {True: 0, None: 1, False: 2}
    return sorted(ranked, key=lambda each: (order[each.fits], -(each.candidate.parameters or 0), each.candidate.name))


def _ranked(candidate: Candidate, profile: Profile, places: Places) -> Ranked:
    shape = candidate.shape
    if shape is None:
        return Ranked(
            candidate=candidate, training_bytes=None, largest_batch=None, inference_bytes=None, board_kind=None, fits=None
        )
    if "student" in candidate.roles:
        return _student(candidate, shape, profile, places)
    needed = inference_bytes(shape, _LABEL_KIND, CACHE_TOKENS)
    here = None if places.here_bytes is None else needed <= places.here_bytes
    return Ranked(
        candidate=candidate,
        training_bytes=None,
        largest_batch=None,
        inference_bytes=None if candidate.remote else needed,
        board_kind=None,
        fits=True if candidate.remote else here,
    )


def _student(candidate: Candidate, shape: ModelShape, profile: Profile, places: Places) -> Ranked:
    room, context = places.training, profile.bench.n_prompt + profile.bench.n_gen
    sizes: dict[str, int] = {kind: inference_bytes(shape, kind, context) for kind in profile.export.quantisations}
    job = Job(shape, profile.train, room.device, room.compute_bytes) if room else None
    batch = largest_batch(job, room.total_bytes) if job and room else None
    kind = _best(sizes, places.board_bytes)
    on_board = None if places.board_bytes is None else kind is not None
    return Ranked(
        candidate=candidate,
        training_bytes=training_need(job).peak_bytes if job else None,
        largest_batch=batch,
        inference_bytes=sizes[kind] if kind else min(sizes.values()),
        board_kind=kind,
        fits=_both(None if batch is None else batch > 0, on_board),
    )


def _best(sizes: Mapping[str, int], limit: int | None) -> str | None:
    """Return the largest quantisation within a board's memory: the one that loses least."""
    fitting = {kind: size for kind, size in sizes.items() if limit is not None and size + _SYSTEM_BYTES <= limit}
    return max(fitting, key=lambda kind: fitting[kind], default=None)


def _both(*answers: bool | None) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True
