"""A watched training as Rich draws it: state, curves, what is left, memory, decisions. Readable without colour and narrow."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from core.report.text_plot import Mark, plot
from core.report.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.train.recorded import Step
    from core.train.watching import Bucket, Seen

_GIB = 1 << 30
_STYLES = {"running": "green", "finished": "green", "starting": "yellow", "stopped": "red", "killed": "red"}
_LEAST_PLOT, _MOST_PLOT = 3, 10  # lines
_SHOWN_DECISIONS = 6
_SHOWN_LAYERS = 4
_TOLD = {"decision", "at", "step", "reason"}


def view(seen: Seen, *, width: int, height: int, ascii_only: bool) -> RenderableType:
    """Return a training drawn as wide as `width` and, where that leaves room to see anything, no higher than `height`."""
    above = [*_head(seen, width), *_progress(seen, width, ascii_only=ascii_only)]
    below = [*_wrapped(_figures(seen), width, "  "), *_decisions(seen, width)]
    curves = _curves(seen, width, height - len(above) - len(below), ascii_only=ascii_only)
    return Group(*above, *curves, *below)


def _wrapped(lines: Sequence[str], width: int, indent: str) -> list[Text]:
    """Return lines that are no wider than `width`; what goes on in another one stands further in."""
    wrapper = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)
    return [Text(part) for line in lines for part in wrapper.wrap(line)]


def _head(seen: Seen, width: int) -> list[Text]:
    of = f" of {visible(seen.student)}" if seen.student else ""
    texts = _wrapped([f"training {seen.training}{of}: {seen.state}"], width, "")
    texts[-1].stylize(_STYLES[seen.state], len(texts[-1].plain) - len(seen.state))
    return [*texts, *_wrapped([visible(seen.why)] if seen.why else [], width, "  ")]


def _progress(seen: Seen, width: int, *, ascii_only: bool) -> list[Text]:
    steps = seen.start.steps if seen.start else None
    done = seen.last.step if seen.last else 0
    if not steps:
        return []
    told = f"{done}/{steps} steps"
    if seen.eta is not None:
        told += f", {seen.eta.text} left (by {seen.eta.learned_from})"
    elif seen.state == "running" and done < steps:
        told += ", how long is not known yet"
    room = min(30, width - 4)
    filled = round(room * min(1.0, done / steps))
    full, empty = ("#", ".") if ascii_only else ("\u2588", "\u2591")
    bar = Text(f"  {full * filled}{empty * (room - filled)}")
    if len(bar.plain) + len(told) + 1 <= width:
        return [bar.append(f" {told}")]
    return [bar, *_wrapped([told], width, "  ")]


def _curves(seen: Seen, width: int, free: int, *, ascii_only: bool) -> list[Text]:
    """Return loss, held-out loss and gradient norm as far as there is room; the loss is the last to go."""
    losses = _marks(seen.curve, lambda b: b.loss_min, lambda b: b.loss_max)
    norms = _marks(seen.curve, lambda b: b.grad_norm_max, lambda b: b.grad_norm_max)
    held_out = [Mark(one.step, one.held_out_loss, one.held_out_loss) for one in seen.held_out]
    wanted = [(_loss_title(seen), losses, False), ("gradient norm, logarithmic", norms, True)]
    if len(held_out) > 1:
        wanted.insert(1, (_held_out_title(seen), held_out, False))
    drawn = [each for each in wanted if each[1]]
    while len(drawn) > 1 and free < len(drawn) * (_LEAST_PLOT + 2):
        drawn.pop()
    texts = []
    for title, marks, logarithmic in drawn:
        lines = max(_LEAST_PLOT, min(_MOST_PLOT, free // len(drawn) - 2))
        curve = plot(marks, width=width, height=lines, logarithmic=logarithmic, ascii_only=ascii_only)
        texts += [*_wrapped([title], width, "  "), *(Text(line, no_wrap=True, overflow="crop") for line in curve)]
    return texts


def _marks(
    curve: Sequence[Bucket], low: Callable[[Bucket], float | None], high: Callable[[Bucket], float | None]
) -> list[Mark]:
    found = ((bucket.step, low(bucket), high(bucket)) for bucket in curve)
    return [Mark(step, least, most) for step, least, most in found if least is not None and most is not None]


def _loss_title(seen: Seen) -> str:
    told = f"loss {seen.last.loss:.4f} at step {seen.last.step}" if seen.last else "loss"
    return f"{told}; {seen.losses_not_finite} steps without a number" if seen.losses_not_finite else told


def _held_out_title(seen: Seen) -> str:
    last = seen.held_out[-1]
    best = min(seen.held_out, key=lambda one: one.held_out_loss)
    where = "before any step" if best.step == 0 else f"at step {best.step}"
    return f"held-out loss {last.held_out_loss:.4f} at step {last.step}, best {best.held_out_loss:.4f} {where}"


def _figures(seen: Seen) -> list[str]:
    lines = []
    if len(seen.held_out) == 1:
        only = seen.held_out[0]
        lines.append(
            f"held-out loss {only.held_out_loss:.4f} {'of the base' if only.step == 0 else f'at step {only.step}'}"
        )
    if seen.last is not None:
        lines += [_speed(seen.last), *_memory(seen.last, seen)]
    if seen.layers is not None and seen.layers.layer_grad_norms:
        norms = sorted(seen.layers.layer_grad_norms.items(), key=lambda each: -each[1])
        largest = ", ".join(f"layer {visible(name)} {norm:.3g}" for name, norm in norms[:_SHOWN_LAYERS])
        lines.append(f"largest gradient norms at step {seen.layers.step}: {largest}")
    if not (seen.state == "finished" or seen.last is None):
        kept = f"at step {seen.checkpoint_step}" if seen.checkpoint_step is not None else "none yet"
        lines.append(f"newest checkpoint: {kept}")
    return lines


def _speed(last: Step) -> str:
    norm = "" if last.grad_norm is None else f", gradient norm {last.grad_norm:.3g}"
    return (
        f"{last.tokens_per_s:,.0f} tokens/s, {last.step_s:.3g} s a step, {last.trained_tokens} tokens learned from in it, "
        f"learning rate {last.learning_rate:.2e}{norm}"
    )


def _memory(last: Step, seen: Seen) -> list[str]:
    told = []
    if last.rss_bytes is not None:
        told.append(f"{last.rss_bytes / _GIB:.1f} GiB RAM")
    if last.cuda_bytes is not None and last.cuda_peak_bytes is not None:
        told.append(f"GPU {last.cuda_bytes / _GIB:.1f} GiB, at most {last.cuda_peak_bytes / _GIB:.1f}")
    if last.gpu_utilisation is not None:
        told.append(f"GPU {last.gpu_utilisation:.0%} busy")
    if last.gpu_power_w is not None:
        told.append(f"{last.gpu_power_w:.0f} W")
    if last.gpu_temperature_c is not None:
        told.append(f"{last.gpu_temperature_c:.0f} C")
    if seen.start is not None and seen.start.processes > 1:
        told.append(f"{seen.start.processes} processes")
    return [", ".join(told)] if told else []


def _decisions(seen: Seen, width: int) -> list[Text]:
    if not seen.decisions:
        return []
    shown = seen.decisions[-_SHOWN_DECISIONS:]
    left_out = len(seen.decisions) - len(shown)
    title = f"  decisions ({left_out} earlier ones not shown)" if left_out else "  decisions"
    return [Text(title), *_wrapped([_decision(each) for each in shown], width, "    ")]


def _decision(told: dict[str, Any]) -> str:
    at = f"{str(told['at'])[11:19]} " if told.get("at") else ""
    step = f"step {told['step']}: " if "step" in told else ""
    rest = [str(told["reason"])] if told.get("reason") else []
    rest += [f"{name} {_plain(value)}" for name, value in told.items() if name not in _TOLD and value is not None]
    return visible(": ".join(part for part in (f"{at}{step}{told.get('decision', '?')}", ", ".join(rest)) if part))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
