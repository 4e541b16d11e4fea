"""What a training needs to go on bit for bit: tensors as safetensors, all else as JSON, nothing as a pickle.

Adapter, optimiser, scheduler, gradient scaler, random generators and the trainer's own counters and log. Part of the
train worker; whether the files are whole is checkpoints.py's to say.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from core.errors import EnvironmentFault
from core.files import digest_of
from core.train.shards import worker as shards

ADAPTER = "adapter_model.safetensors"
TRAINER_STATE = "trainer_state.json"
_OPTIMISER = "optimizer"
_SCHEDULER, _SCALER, _RNG = "scheduler.json", "scaler.json", "rng.json"
_PINNED = "Install the pinned versions of torch, transformers, peft and trl."


def save_adapter(model: Any, folder: Path, student_name: str, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write the adapter in PEFT's format, without this machine's paths and in a fixed order, so that its digest repeats.

    `weights` are the model's own where it lies in shards (shards.whole_adapter).
    """
    with _os_errors():
        model.save_pretrained(str(folder), state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["base_model_name_or_path"] = student_name
    if isinstance(written["target_modules"], list):
        written["target_modules"].sort()
    path.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(model: Any, folder: Path) -> None:
    """Put a saved adapter's weights into a model; EnvironmentFault unless they are there bit for bit, type and all."""
    stored = load_file(folder / ADAPTER)
    there = get_peft_model_state_dict(model)
    _require_same(stored, there, same_type)
    set_peft_model_state_dict(model, {name: shards.cut_like(tensor, there[name]) for name, tensor in stored.items()})
    _require_same(stored, shards.whole(get_peft_model_state_dict(model)), torch.equal)


def same_type(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors have one type and shape."""
    return one.dtype == other.dtype and one.shape == other.shape


def _require_same(stored: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor], same: Any) -> None:
    names = sorted(stored.keys() | there.keys())
    wrong = [name for name in names if name not in stored or name not in there or not same(stored[name], there[name].cpu())]
    if wrong:
        raise EnvironmentFault(
            f"adapter weight {wrong[0]} is not what the checkpoint holds ({len(wrong)} such), a resume would not be exact",
            remedy=_PINNED,
        )


def save_optimiser(whole: Mapping[str, Any], folder: Path) -> None:
    """Write an optimiser's `state_dict`, its shards put together; nested state, as bitsandbytes has it, is written flat."""
    flat = dict(_flat(whole["state"], ()))
    tensors = {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in flat.items() if name not in tensors}
    with _os_errors():
        save_file(_apart(tensors), folder / f"{_OPTIMISER}.safetensors")
    _write(folder / f"{_OPTIMISER}.json", {"param_groups": whole["param_groups"], "state": plain})


def load_optimiser(optimiser: Any, folder: Path) -> None:
    """Put a saved state into an optimiser of the same parameters."""
    plain = _read(folder / f"{_OPTIMISER}.json")
    state: dict[Any, Any] = {}
    for name, value in {**load_file(folder / f"{_OPTIMISER}.safetensors"), **plain["state"]}.items():
        _put(state, name.split("/"), value)
    groups = [
        {key: tuple(value) if isinstance(fresh.get(key), tuple) else value for key, value in stored.items()}
        for stored, fresh in zip(plain["param_groups"], optimiser.param_groups, strict=True)
    ]
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    held = shards.cut_state({int(index): each for index, each in state.items()}, parameters)
    optimiser.load_state_dict({"state": held, "param_groups": groups})


def _flat(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, (*path, str(key)))
    else:
        yield "/".join(path), node


def _put(tree: dict[Any, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors that share no memory, as safetensors asks; 8-bit optimisers share their quantisation maps."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return apart


def save_schedule(scheduler: Any, scaler: Any, folder: Path) -> None:
    """Write the learning rate's schedule and, in fp16, the gradient scaler."""
    _write(folder / _SCHEDULER, scheduler.state_dict())
    if scaler is not None:
        _write(folder / _SCALER, scaler.state_dict())


def load_schedule(scheduler: Any, folder: Path) -> None:
    """Put a saved schedule into a scheduler."""
    scheduler.load_state_dict(_read(folder / _SCHEDULER))


def set_rate(optimiser: Any, scheduler: Any, learning_rate: float) -> None:
    """Have a schedule go on from where it is with another highest learning rate; nothing changes where it is the same."""
    if set(scheduler.base_lrs) == {learning_rate}:
        return
    scheduler.base_lrs = [learning_rate] * len(scheduler.base_lrs)
    for group, share in zip(optimiser.param_groups, scheduler.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = learning_rate, learning_rate * share(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimiser.param_groups]


def load_scaler(scaler: Any, folder: Path) -> None:
    """Put a saved scale into a gradient scaler."""
    scaler.load_state_dict(_read(folder / _SCALER))


def save_rng(folder: Path, rank: int = 0) -> dict[str, str]:
    """Write the state of every random generator of a process and return the digest of each."""
    states = _rng()
    _write(folder / _rng_name(rank), states)
    return {name: digest_of(state) for name, state in states.items()}


def _rng_name(rank: int) -> str:
    return f"rng-{rank}.json" if rank else _RNG


def load_rng(folder: Path, rank: int = 0) -> list[str]:
    """Put every random generator back and return the names of those that are not as they were: this machine has others."""
    states = _read(folder / _rng_name(rank))
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_tensor(states["torch"]))
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if (state := states.get(f"cuda:{index}")) is not None:
            torch.cuda.set_rng_state(_tensor(state), index)
    now = _rng()
    return sorted(name for name in now.keys() | states.keys() if now.get(name) != states.get(name))


def _rng() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": _hex(torch.get_rng_state()),
        **{f"cuda:{index}": _hex(state) for index, state in enumerate(devices)},
    }


def _hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn what safetensors says of a failed write into the OSError it was, so that a full disk is known as one."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found.group(1)), str(error)) from error


def cleared(folder: Path) -> Path:
    """Return a folder that is there and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
