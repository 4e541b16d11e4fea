"""Prints how far a merged model is from one made by hand: `four_bit_merge.py BASE ADAPTER MERGED`.

By hand: every block matrix is quantised and dequantised by bitsandbytes on its own, then B A alpha / r is added in fp32.
"""

import json
import sys
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file


def main(base: str, adapter: str, merged: str) -> None:
    own, made = load_file(Path(base) / "model.safetensors"), load_file(Path(merged) / "model.safetensors")
    lora = load_file(Path(adapter) / "adapter_model.safetensors")
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    farthest, matrices = 0.0, 0
    for name, weight in own.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" not in lora:
            assert torch.equal(weight, made[name]), name
            continue
        coarse, state = quantize_4bit(weight.float(), quant_type="nf4", compress_statistics=True)
        a, b = (lora[f"{prefix}.lora_{which}.weight"].float() for which in "AB")
        wanted = (dequantize_4bit(coarse, state) + b @ a * config["lora_alpha"] / config["r"]).to(weight.dtype)
        farthest = max(farthest, float((wanted.float() - made[name].float()).abs().max()))
        matrices += 1
    sys.stdout.write(json.dumps({"farthest": farthest, "matrices": matrices}))


main(*sys.argv[1:])
