"""The model card for people, as the Hugging Face hub reads it: what it came from, what each file is worth, how to run it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.export.card import FILE, README, ModelCard
from core.export.modelfile import modelfile
from core.files import write_atomic
from core.nouns import Quantisation
from core.report.hub_markdown import hub_licence, hub_page, one_line
from core.report.page import Section
from core.report.quantisations import MEANING, WEIGHTS, figures, figures_columns, memory_told, merge_told
from core.report.table import Cell, Column, Table

_TRAINING = (
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length"),
    *("lr_scheduler_type", "optim", "quantisation", "seed"),
)
ADAPTER_MODELFILE = "Modelfile-adapter"
_BASE_GGUF = "base.gguf"
_LORA = ("r", "lora_alpha", "lora_dropout", "target_modules")


def write_model_card(folder: Path, card: ModelCard) -> None:
    """Write `README.md`, `model_card.json` and a Modelfile for each GGUF file, the adapter's too, into a folder."""
    write_atomic(folder / FILE, card.model_dump_json(indent=1).encode())
    write_atomic(folder / README, markdown(card).encode())
    for file in card.quantisations:
        if card.chat and (text := modelfile(file.path, card.chat)):
            write_atomic(folder / modelfile_name(file), text.encode())
    if (alone := _adapter_modelfile(card)) is not None:
        write_atomic(folder / ADAPTER_MODELFILE, alone.encode())


def modelfile_name(file: Quantisation) -> str:
    """Return the name of a file's Modelfile."""
    return f"Modelfile-{file.type}"


def markdown(card: ModelCard) -> str:
    """Return the card as the hub reads it."""
    return hub_page(front_matter(card), card.title, _lead(card), _sections(card))


def front_matter(card: ModelCard) -> dict[str, Any]:
    """Return the metadata at the head of the card, by the hub's names."""
    base = {"base_model": card.base_repo, "base_model_relation": "finetune"} if card.base_repo else {}
    return {
        **hub_licence(card.student.licence),
        **base,
        **({"language": list(card.teaching.languages)} if card.teaching.languages else {}),
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["edgekiln", "gguf", "llama.cpp", "lora", *(["context-distillation"] if _distilled(card) else [])],
    }


def _distilled(card: ModelCard) -> bool:
    return card.teaching.context_distillation


def _lead(card: ModelCard) -> str:
    taught, gain = card.teaching, card.teaching.base_held_out_loss - card.teaching.held_out_loss
    return (
        f"{one_line(card.student.name)}, taught {taught.train_rows:,} answers of {one_line(taught.teacher.name)}: the loss on "
        f"{taught.held_out_rows:,} held-out rows fell by {gain:.4f} nats per token, from {taught.base_held_out_loss:.4f} to "
        f"{taught.held_out_loss:.4f}."
    )


def _sections(card: ModelCard) -> Iterable[Section]:
    if card.about.strip():
        yield Section(heading="What it is", text=tuple(card.about.splitlines()))
    use = card.intended_use.strip() or "Not stated by those who made it. Judge it on your own task before you rely on it."
    yield Section(heading="Intended use", text=tuple(use.splitlines()))
    yield Section(heading="Files", text=(MEANING, *memory_told(card.quantisations)), tables=tuple(_file_tables(card)))
    yield from _prompt_format(card)
    yield from _running(card)
    yield from _adapter_alone(card)
    yield _training(card)
    yield _licences(card)
    yield Section(
        heading="How it was made", text=(_made(card),), tables=(_table("Tools", ("tool", "version"), card.tools.items()),)
    )


def _file_tables(card: ModelCard) -> Iterable[Table]:
    columns = (Column(key="file", title="file"), *figures_columns())
    loss = card.teaching.merged_held_out_loss
    merged = f"before quantisation the held-out loss is {loss:.4f}{merge_told(card.merge)}"
    rows = tuple((file.path, *figures(file)) for file in card.quantisations)
    yield _known(Table(title="What each file is worth", columns=columns, rows=rows, notes=(merged,)))
    if card.rejected:
        refused = ((one.quantisation.type, "; ".join(one.reasons)) for one in card.rejected)
        yield _table("Made, refused and not kept", ("type", "why"), refused)


def _prompt_format(card: ModelCard) -> Iterable[Section]:
    if card.chat is None:
        told = "The chat template in the files is no sum of pieces; llama.cpp and its server apply it by themselves."
        yield Section(heading="Prompt format", text=(told,))
        return
    told = "The chat template is in every file, and llama.cpp applies it by itself. A question is written as"
    code = card.chat.rendered([{"role": "user", "content": "{question}"}])
    yield Section(heading="Prompt format", text=(told,), code=code, language="text")


def _running(card: ModelCard) -> Iterable[Section]:
    if not card.quantisations:
        return
    file = card.quantisations[0]
    lines = ["# llama.cpp, a chat in the terminal", f"llama-cli -m {file.path} --jinja", ""]
    lines += ["# llama.cpp, an OpenAI-compatible server on port 8080", f"llama-server -m {file.path} --jinja"]
    if card.chat and modelfile(file.path, card.chat):
        name = card.student.name.casefold()
        lines += ["", "# Ollama", f"ollama create {name} -f {modelfile_name(file)}", f"ollama run {name}"]
    yield Section(heading="How to run it", code="\n".join(lines), language="sh")


def _adapter_modelfile(card: ModelCard) -> str | None:
    file = card.adapter_file
    return modelfile(_BASE_GGUF, card.chat, file.path) if file and not file.reasons and card.chat else None


def _adapter_alone(card: ModelCard) -> Iterable[Section]:
    file = card.adapter_file
    if file is None:
        return
    if file.reasons:
        yield Section(heading="The adapter alone", text=(f"Made, refused and not kept: {'; '.join(file.reasons)}",))
        return
    name = one_line(card.student.name)
    told = (
        f"{file.path} ({file.bytes / (1 << 20):.1f} MiB, r {file.r}, alpha {file.lora_alpha:g}) is what was trained, without the "
        f"weights it was trained on. It goes with {name}'s own weights, to which llama.cpp adds it at load, so that one base "
        f"serves several adapters: the base's F32 file with it has a held-out loss of {file.held_out_loss:.4f}, the model merged "
        f"onto those weights {file.merged_held_out_loss:.4f}."
    )
    lines = ["# the base as a GGUF file, once, by the converter of llama.cpp", _base(card)]
    lines += [f"python convert_hf_to_gguf.py base --outfile {_BASE_GGUF}", ""]
    lines += ["# llama.cpp", f"llama-cli -m {_BASE_GGUF} --lora {file.path} --jinja"]
    lines += [f"llama-server -m {_BASE_GGUF} --lora {file.path} --jinja"]
    if _adapter_modelfile(card):
        name = Path(file.path).stem.casefold()
        lines += ["", f"# Ollama, {_BASE_GGUF} beside the Modelfile", f"ollama create {name} -f {ADAPTER_MODELFILE}"]
        lines += [f"ollama run {name}"]
    yield Section(heading="The adapter alone", text=(told, _other_weights(card)), code="\n".join(lines), language="sh")


def _base(card: ModelCard) -> str:
    """Return how to get the very weights that the adapter goes with; a branch's head may be others by now."""
    if card.base_repo is None:
        return (
            f"# base: the folder of {one_line(card.student.name)} as Hugging Face has it, {one_line(card.student.identity)}"
        )
    commit = card.student.identity.rpartition("@")[2]
    return f"hf download {card.base_repo} --revision {commit} --local-dir base"


def _other_weights(card: ModelCard) -> str:
    """Tell the adapter's base from the weights of the other files where they are not the same; nothing where they are."""
    if card.merge is None or card.merge.onto == "base":
        return ""
    loss = card.teaching.merged_held_out_loss
    onto = WEIGHTS[card.merge.onto]
    return f"The files above are another model: they were merged onto {onto}, with a held-out loss of {loss:.4f}."


def _training(card: ModelCard) -> Section:
    taught = card.teaching
    lora = taught.config.get("lora", {})
    rows = [(name, taught.config[name]) for name in _TRAINING if name in taught.config]
    rows += [(f"lora {name}", lora[name]) for name in _LORA if name in lora]
    told = f"{taught.steps:,} optimiser steps over {taught.trained_tokens:,} tokens of answers."
    hidden = "The teacher saw a context that the student must answer without." if taught.context_distillation else ""
    shown = ((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for name, value in rows)
    return Section(heading="Training", text=(told, hidden), tables=(_table("Settings", ("field", "value"), shown),))


def _licences(card: ModelCard) -> Section:
    taught = card.teaching
    rows = (
        ("student (the weights it started from)", card.student.name, card.student.licence),
        ("teacher (who wrote the answers)", taught.teacher.name, taught.teacher.licence),
        ("dataset (the questions)", taught.dataset_title or "not known here", taught.dataset_licence or "not stated"),
    )
    told = (
        "The files are a change of the student's weights, so its licence holds for them. The teacher's licence and terms may "
        "limit what its answers may teach; the dataset's may ask to be named."
    )
    return Section(
        heading="Licences", text=(told,), tables=(_table("Of what it came from", ("part", "name", "licence"), rows),)
    )


def _made(card: ModelCard) -> str:
    taught = card.teaching
    dataset = f"dataset {taught.dataset}, " if taught.dataset else ""
    return (
        f"By edgekiln {card.edgekiln}: {dataset}adapter {taught.adapter}. Each file was loaded and run "
        f"before it was kept; all settings are in {FILE}."
    )


def _known(table: Table) -> Table:
    """Return a table without the columns in which nothing is known of any row."""
    if not table.rows:
        return table
    some = [index for index in range(len(table.columns)) if any(row[index] is not None for row in table.rows)]
    return table.model_copy(
        update={
            "columns": tuple(table.columns[index] for index in some),
            "rows": tuple(tuple(row[index] for index in some) for row in table.rows),
        }
    )


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[Cell]]) -> Table:
    columns = tuple(Column(key=head, title=head) for head in heads)
    return Table(title=title, columns=columns, rows=tuple(tuple(row) for row in rows))
