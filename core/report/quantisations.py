"""The files of a model beside each other: a table of what each is worth, which no other beats, and two plots."""

from __future__ import annotations

from collections.abc import Sequence

from core.compare.scoring import TASKS
from core.export.merge import PLAIN
from core.export.tasks import BASE, TEACHER
from core.nouns import AdapterFile, GgufModel, Merge, UnprovenQuantisation
from core.report.charts import Chart, Record, scatter
from core.report.page import Page, Section
from core.report.table import Cell, Column, Table

MEANING = (
    "Held-out loss: nats per token of the held-out answers, lower is better. KL divergence: how far the next-token "
    "probabilities are from those of the unquantised (F32) file, in nats a token over the held-out texts, 0 is none. "
    "Same best token: how often both files expect the same token. Bits per weight are counted in the file."
)
_ESTIMATED, _MEASURED = "memory_estimated_mib", "memory_measured_mib"
TASK_MEANING = (
    "Exact match: JSON of the same value, the same tool calls, or a short answer word for word. The base is the student before "
    "it was trained, as a Q8_0 file; the teacher's answers are those that were hoped for."
)
_NOT_MEASURED = "it is measured where export.max_memory_mib names the board's RAM, the estimate fits in it, and the exporting host has room"
_MIB = 1 << 20
WEIGHTS = {"base": "the student's own weights", "dequantised": "the 4-bit weights it was trained on"}
_COLUMNS = (
    Column(key="type", title="type"),
    Column(key="size_mib", title="size", unit="MiB", digits=1, align="right"),
    Column(key="bits_per_weight", title="bits per weight", digits=2, align="right"),
    Column(key="held_out_loss", title="held-out loss", digits=4, align="right"),
    Column(key="kl_mean", title="KL divergence", digits=4, align="right"),
    Column(key="perplexity_ratio", title="perplexity / F32's", digits=3, align="right"),
    Column(key="same_top_percent", title="same best token", unit="%", digits=1, align="right"),
    Column(key=_ESTIMATED, title="RAM, estimated", unit="MiB", digits=1, align="right", optional=True),
    Column(key=_MEASURED, title="RAM, measured", unit="MiB", digits=1, align="right", optional=True),
    Column(key="unbeaten", title="no other beats it"),
    Column(key="verdict", title="verdict"),
    Column(key="file", title="file", optional=True),
)


def unbeaten(files: Sequence[UnprovenQuantisation]) -> frozenset[str]:
    """Return the types of the files of which none other is at least as small and as good, and better in one."""
    return frozenset(file.type for file in files if not any(_beats(other, file) for other in files))


def _beats(one: UnprovenQuantisation, other: UnprovenQuantisation) -> bool:
    pairs = [(one.bytes, other.bytes), (one.held_out_loss, other.held_out_loss)]
    if one.divergence and other.divergence:
        pairs.append((one.divergence.kl_mean, other.divergence.kl_mean))
    known = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    no_worse = len(known) == len(pairs) and all(mine <= theirs for mine, theirs in known)
    return no_worse and any(mine < theirs for mine, theirs in known)


def quantisations_table(gguf: GgufModel) -> Table:
    """Return a row a file, the rejected ones with their reasons."""
    best = unbeaten(gguf.quantisations)
    rows: list[tuple[Cell, ...]] = [
        (*figures(file), "yes" if file.type in best else "no", "kept", file.path) for file in gguf.quantisations
    ]
    rows += [(*figures(one.quantisation), None, "rejected: " + "; ".join(one.reasons), None) for one in gguf.rejected]
    merged = f"before quantisation the held-out loss is {gguf.reference_held_out_loss:.4f}{merge_told(gguf.merge)}"
    title = f"{gguf.student.name}, export {gguf.artifact_id}"
    return Table(
        title=title,
        columns=_COLUMNS,
        rows=tuple(rows),
        notes=(merged, *adapter_told(gguf.adapter_file), *_unmeasured(gguf), MEANING, *memory_told(all_files(gguf))),
    )


def tasks_table(gguf: GgufModel) -> Table | None:
    """Return the share of right answers of every file, of the base and of the teacher; None where no prompt has one."""
    found = {name for metric in gguf.metrics if (name := metric.partition(".")[0]) in TASKS}
    if not found:
        return None
    names = [name for name in TASKS if name in found]
    columns = [Column(key=name, title=name.replace("_", " "), unit="%", digits=1, align="right") for name in names]
    whose = [*(file.type for file in gguf.quantisations), *(one.quantisation.type for one in gguf.rejected), BASE, TEACHER]
    rows = tuple((who, *(percent(gguf.metrics.get(f"{name}.{who}")) for name in names)) for who in whose)
    title = "Right answers on the held-out prompts that have one"
    return Table(title=title, columns=(Column(key="who", title="answered by"), *columns), rows=rows, notes=(TASK_MEANING,))


def percent(share: float | None) -> float | None:
    """Return a share in percent, None as it is."""
    return None if share is None else 100 * share


def figures_columns() -> tuple[Column, ...]:
    """Return the columns of `figures`."""
    return _COLUMNS[:9]


def memory_columns() -> tuple[Column, ...]:
    """Return the columns of `memory_figures`."""
    return _COLUMNS[7:9]


def memory_figures(file: UnprovenQuantisation) -> tuple[Cell, ...]:
    """Return the MiB of RAM a file needs by its header, and the peak that was measured."""
    need = file.memory
    if need is None:
        return None, None
    return need.estimated_bytes / _MIB, None if need.measured_bytes is None else need.measured_bytes / _MIB


def memory_told(files: Sequence[UnprovenQuantisation]) -> tuple[str, ...]:
    """Say what the RAM of files means, where it was measured and why it was not; nothing where nobody asked for it."""
    needs = [file.memory for file in files if file.memory is not None]
    if not needs:
        return ()
    tokens = ", ".join(sorted({f"{need.n_ctx:,}" for need in needs}))
    told = f"RAM: the weights with a KV cache of {tokens} tokens in 16 bits; estimated by the file's header"
    places = sorted({need.measured_on for need in needs if need.measured_on is not None})
    told += f", measured as the peak on {', '.join(places)}" if places else ""
    lacking = [] if all(need.measured_on for need in needs) else [_NOT_MEASURED]
    return ("; ".join([told, *lacking]) + ".",)


def figures(file: UnprovenQuantisation) -> tuple[Cell, ...]:
    """Return what a file is worth, as `figures_columns` has it: loss in nats, shares in percent, memory in MiB."""
    far = file.divergence
    return (
        file.type,
        file.bytes / _MIB,
        file.bits_per_weight,
        file.held_out_loss,
        far.kl_mean if far else None,
        far.perplexity_ratio if far else None,
        100 * far.same_top_share if far else None,
        *memory_figures(file),
    )


def all_files(gguf: GgufModel) -> list[UnprovenQuantisation]:
    """Return the files that were kept, then those that were not."""
    return [*gguf.quantisations, *(one.quantisation for one in gguf.rejected)]


def merge_told(merge: Merge | None) -> str:
    """Say onto which weights a model was merged, what the others came to, and why; nothing where it was the plain merge."""
    if merge is None or (merge.onto == "base" and len(merge.held_out_losses) == 1 and merge.reason == PLAIN):
        return ""
    others = [f"onto {WEIGHTS[name]} {loss:.4f}" for name, loss in merge.held_out_losses.items() if name != merge.onto]
    return f", merged onto {WEIGHTS[merge.onto]} ({'; '.join([*others, merge.reason])})"


def adapter_told(file: AdapterFile | None) -> tuple[str, ...]:
    """Say what the adapter alone is worth as a file; nothing where none was asked for."""
    if file is None:
        return ()
    if file.reasons:
        return (f"the adapter alone was made, refused and not kept: {'; '.join(file.reasons)}",)
    told = (
        f"the adapter alone: {file.path}, {file.bytes / _MIB:.1f} MiB; the base's F32 file with it has a held-out loss of "
    )
    told += f"{file.held_out_loss:.4f}, the model merged onto {WEIGHTS['base']} {file.merged_held_out_loss:.4f}"
    return (told,)


def _unmeasured(gguf: GgufModel) -> tuple[str, ...]:
    if any(file.divergence for file in gguf.quantisations):
        return ()
    return ("no divergence was measured: the held-out texts are too short, or llama-perplexity ended on the F32 file",)


def quantisations_page(gguf: GgufModel) -> Page:
    """Return the table with its plots as a page."""
    best = sorted(unbeaten(gguf.quantisations), key=[file.type for file in gguf.quantisations].index)
    tasks = tasks_table(gguf)
    tables = (quantisations_table(gguf), *((tasks,) if tasks else ()))
    section = Section(heading="Files", tables=tables, charts=tuple(_charts(gguf)))
    lead = f"No other file beats {', '.join(best)} in size, loss and divergence at once." if best else "No file was kept."
    return Page(title=gguf.student.name, lead=lead, facts=(("export", gguf.artifact_id),), sections=(section,))


def _charts(gguf: GgufModel) -> list[Chart]:
    losses = [(file, file.held_out_loss) for file in gguf.quantisations]
    far = [(file, file.divergence.kl_mean) for file in gguf.quantisations if file.divergence]
    drawn = [("Held-out loss by size", "nats per token", losses), ("KL divergence by size", "nats a token", far)]
    return [_chart(title, unit, points) for title, unit, points in drawn if len(points) > 1]


def _chart(title: str, unit: str, points: Sequence[tuple[UnprovenQuantisation, float]]) -> Chart:
    records: list[Record] = [{"type": file.type, "mib": file.bytes / _MIB, "worth": worth} for file, worth in points]
    caption = "Further left is smaller, further down is better."
    return scatter(title, caption, records, x=("mib", "size, MiB"), y=("worth", unit), label=("type", "type"))
