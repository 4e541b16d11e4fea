"""Builds a tiny model of an architecture with random weights, in a process of its own: `build_architecture.py FAMILY HIDDEN TARGET BPE`.

BPE is the folder of a tokenizer whose pre-tokenizer llama.cpp's converter knows, or a GGUF vocabulary of Qwen2, which transformers
gives its own pre-tokenizer whatever the folder says. Gemma, Phi-3 and Mistral get a sentencepiece
model that is trained here, and a tokenizer.json laid out as that of the published models.
"""

import sys
from pathlib import Path

import sentencepiece
import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
LLAMA_2 = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
# the first pieces in their order, other special ones, those that swallow the white space behind them, the chat template
SENTENCEPIECE = {
    "gemma3_text": (
        {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"},
        ("<start_of_turn>", "<end_of_turn>"),
        (),
        GEMMA,
    ),
    "phi3": (
        LLAMA_2,
        ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
        ("</s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"),
        PHI_3,
    ),
    "mistral": (LLAMA_2, ("[INST]", "[/INST]"), (), MISTRAL),
}
TEXT = (
    "What does the function return? It returns the length of the list, or zero when the list is empty.",
    "Open a file, read its lines, and close it again. The name of the file is the first argument.",
    "user system assistant model You are a helpful assistant. Raise an error when the value is out of range.",
    "  two  spaces, import os, sys; print(sorted(names)); café naïve 12345 日本語",
)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}


def main(family: str, hidden: str, target: str, bpe: str) -> None:
    torch.manual_seed(5)
    kind, _, tied = family.partition(":")
    sentences = SENTENCEPIECE.get(kind)
    if sentences:
        tokenizer = sentencepiece_tokenizer(Path(target), *sentences)
    else:
        tokenizer = qwen2_tokenizer(Path(bpe)) if bpe.endswith(".gguf") else AutoTokenizer.from_pretrained(bpe)
    width = int(hidden)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=512,
        head_dim=width // 4,
        tie_word_embeddings=tied != "untied",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # with the usual 0.02 all logits are so near each other that nothing is learned in a few steps
        **SIZES,
        **({"sliding_window": 64, "query_pre_attn_scalar": width // 4} if kind == "gemma3_text" else {}),
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def qwen2_tokenizer(vocabulary: Path) -> Qwen2Tokenizer:
    """Return the published tokenizer from the vocabulary that llama.cpp ships, its chat template the usual one."""
    reader = GGUFReader(vocabulary)
    pieces, merges, kinds = (
        reader.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "merges", "token_type")
    )
    ids = {
        piece: number for number, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)) if kind == TokenType.NORMAL
    }
    special = [
        piece for piece, kind in zip(pieces, kinds, strict=True) if kind in {TokenType.CONTROL, TokenType.USER_DEFINED}
    ]
    made = Qwen2Tokenizer(vocab=ids, merges=[tuple(merge.split(" ")) for merge in merges], eos_token="<|im_end|>")
    made.add_special_tokens({"extra_special_tokens": special})
    made.chat_template = CHATML
    return made


def sentencepiece_tokenizer(
    folder: Path, first: dict[str, str], special: tuple[str, ...], swallowing: tuple[str, ...], template: str
) -> PreTrainedTokenizerFast:
    """Train a sentencepiece model into `tokenizer.model` and return the same tokenizer as the published fast ones are made."""
    folder.mkdir(parents=True, exist_ok=True)
    prefixed = first is LLAMA_2
    places = {"pad_id": -1} | {f"{role}_id": number for number, role in enumerate(first)}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefixed,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        control_symbols=list(special),
        **places,
        **{f"{role}_piece": piece for role, piece in first.items()},
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    made = fast_tokenizer(folder / "tokenizer.model", prefixed=prefixed)
    pieces = (*first.values(), *special)
    made.add_special_tokens([AddedToken(piece, rstrip=piece in swallowing, normalized=False) for piece in pieces])
    named = {f"{role}_token": piece for role, piece in first.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **{"pad_token": first["eos"]} | named)


def fast_tokenizer(model: Path, *, prefixed: bool) -> Tokenizer:
    """Return the byte-fallback BPE of a sentencepiece model: a merge for every way two pieces make a third, by its score."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = {pieces.id_to_piece(number): number for number in range(pieces.vocab_size())}
    ways = [
        (number, ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, number in ids.items()
        if not (pieces.is_byte(number) or pieces.is_control(number) or pieces.is_unknown(number))
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    merges = [(left, right) for *_, left, right in sorted(ways)]
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replaced = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefixed else replaced
    if not prefixed:
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return made


main(*sys.argv[1:])
