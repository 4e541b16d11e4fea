"""One of two processes that hold a student in shards (FSDP2, gloo): `sharded.py STUDENT FOLDER`, started by torch.distributed.run.

It trains whole and in shards, saves in between, goes on, and goes on from what was saved; the first writes the losses down.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from core.train.several import worker as several
from core.train.shards import worker as shards
from core.train.state import worker as state

IDS = torch.arange(3, 67).reshape(4, 16)


def made(student: str, *, sharded: bool) -> tuple[Any, torch.optim.AdamW]:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    if sharded:
        mesh = init_device_mesh("cpu", (several.ranks(),))
        for layer in model.base_model.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(weights, lr=1e-2)


def steps(model: Any, optimiser: torch.optim.AdamW, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    return losses


def main(student: str, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    whole_model, whole_optimiser = made(student, sharded=False)
    alone = steps(whole_model, whole_optimiser, 5)
    model, optimiser = made(student, sharded=True)
    before = steps(model, optimiser, 3)
    weights, held = shards.whole_adapter(model), shards.whole(optimiser.state_dict())
    if several.is_first():
        folder.mkdir()
        state.save_adapter(model, folder, "tiny", weights)
        state.save_optimiser(held, folder)
    several.wait_for_all()
    after = steps(model, optimiser, 2)
    again, fresh = made(student, sharded=True)
    state.load_adapter(again, folder)
    state.load_optimiser(fresh, folder)
    told = {
        "alone": alone,
        "sharded": before + after,
        "resumed": steps(again, fresh, 2),
        "in_shards": [shards.is_sharded(model), shards.is_sharded(whole_model)],
        "agreed": several.some_say(several.rank() == 1, False),
        "summed": several.summed(several.rank() + 1, 5),
    }
    if several.is_first():
        (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
