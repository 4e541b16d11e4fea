"""Trains a real LoRA adapter for a few steps, in a process of its own: `build_adapter.py BASE TARGET ROWS.jsonl STEPS`.

With no steps the adapter is random and small, which is enough to make the merged model another one.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(base: str, target: str, rows: str, steps: str) -> None:
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)
    chats = [json.loads(line)["messages"] for line in Path(rows).read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    optimiser = torch.optim.AdamW(weights, lr=1e-2)
    for step in range(int(steps)):
        ids = torch.tensor([tokenizer(texts[step % len(texts)], add_special_tokens=False)["input_ids"]])
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    adapted.save_pretrained(target)


main(*sys.argv[1:])
