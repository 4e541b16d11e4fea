"""Greedy answers by the plainest means: one prompt at a time, no padding, no cache, each step the whole text anew.

`greedy_alone.py FOLDER STEPS` reads a JSON list of chats and writes, for each, its tokens, their natural log-probabilities and
how far the two best tokens lay apart.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.inference_mode()
def main(folder: str, steps: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for chat in json.load(sys.stdin):
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids, tokens, chances, apart = tokenizer(text, add_special_tokens=False)["input_ids"], [], [], []
        while len(tokens) < steps:
            logits = model(torch.tensor([ids + tokens]), use_cache=False).logits[0, -1]
            best = logits.topk(2)
            if (token := int(best.indices[0])) == tokenizer.eos_token_id:
                break
            tokens.append(token)
            chances.append(float(logits.log_softmax(-1)[token]))
            apart.append(float(best.values[0] - best.values[1]))
        answers.append({"tokens": tokens, "chances": chances, "apart": apart, "prompt": len(ids)})
    json.dump(answers, sys.stdout)


main(sys.argv[1], int(sys.argv[2]))
