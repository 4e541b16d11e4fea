"""The one chart module: Vega-Lite by altair; as a PNG by vl-convert, or as a specification for a page with one bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.config import cache_folder
from core.contract import Contract
from core.errors import DiskFull
from core.files import digest_of, write_atomic

_WIDTH_PX = 640
_HEIGHT_PX = 260
_BAR_PX = 24
_LABEL_PX = 220
_MAX_TEXTS = 8  # more would lie over each other on an axis
_INK = "#d9480f"  # contrast above 4 on the light and on the dark ground of the page
_GLOBALS = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"
Record = Mapping[str, str | float | int]


class Chart(Contract):
    """A chart: its Vega-Lite specification, and what a reader should see in it. Titles differ within a page."""

    title: str
    caption: str
    spec: dict[str, Any]


def line(title: str, caption: str, records: Sequence[Record], *, x: tuple[str, str], y: tuple[str, str]) -> Chart:
    """Return a line chart; `x` and `y` are (key, axis title) pairs."""
    import altair as alt

    drawn = (
        alt.Chart(alt.InlineData(values=[dict(record) for record in records]))
        .mark_line(color=_INK, point=alt.OverlayMarkDef(color=_INK, size=28))
        .encode(x=_axis(alt.X, x, zero=False), y=_axis(alt.Y, y, zero=False), tooltip=[_tip(x), _tip(y)])
    )
    return _finish(title, caption, drawn)


def scatter(
    title: str, caption: str, records: Sequence[Record], *, x: tuple[str, str], y: tuple[str, str], label: tuple[str, str]
) -> Chart:
    """Return points with their names beside them; `label` is the (key, title) pair of the name."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=[dict(record) for record in records])).encode(
        x=_axis(alt.X, x, zero=True), y=_axis(alt.Y, y, zero=True)
    )
    points = base.mark_circle(size=120, opacity=1, color=_INK).encode(
        tooltip=[alt.Tooltip(field=label[0], type="nominal", title=label[1]), _tip(x), _tip(y)]
    )
    names = base.mark_text(align="left", dx=10, color="gray").encode(text=alt.Text(field=label[0], type="nominal"))
    return _finish(title, caption, points + names)


def histogram(title: str, caption: str, bars: Sequence[tuple[float, float, int]], *, x: str, y: str = "rows") -> Chart:
    """Return a histogram of (start, end, count) bars; `x` and `y` are axis titles."""
    import altair as alt

    values = [{"start": start, "end": end, "count": count} for start, end, count in bars]
    drawn = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar(color=_INK, binSpacing=1)
        .encode(
            x=alt.X(field="start", type="quantitative", title=x, bin="binned", axis=alt.Axis(grid=False, tickCount=8)),
            x2=alt.X2(field="end"),
            y=_counts(alt.Y, y),
            tooltip=[_tip(("start", "from")), _tip(("end", "to")), _tip(("count", y))],
        )
    )
    return _finish(title, caption, drawn)


def ranking(title: str, caption: str, bars: Sequence[tuple[str, int]], *, x: str = "rows") -> Chart:
    """Return one horizontal bar for each name, in the order given; names differ and long ones are cut."""
    import altair as alt

    drawn = (
        alt.Chart(alt.InlineData(values=[{"name": name, "count": count} for name, count in bars]))
        .mark_bar(color=_INK)
        .encode(
            x=_counts(alt.X, x),
            y=alt.Y(field="name", type="nominal", title=None, sort=None, axis=alt.Axis(labelLimit=_LABEL_PX)),
            tooltip=[alt.Tooltip(field="name", type="nominal", title="name"), _tip(("count", x))],
        )
    )
    return _finish(title, caption, drawn, height_px=_BAR_PX * len(bars))


def shares(title: str, caption: str, bars: Sequence[tuple[str, float]], *, x: str) -> Chart:
    """Return one horizontal bar for each name, in the order given; the numbers are parts of one."""
    import altair as alt

    axis = alt.Axis(gridOpacity=0.3, tickCount=6, format=".0%")
    drawn = (
        alt.Chart(alt.InlineData(values=[{"name": name, "share": share} for name, share in bars]))
        .mark_bar(color=_INK)
        .encode(
            x=alt.X(field="share", type="quantitative", title=x, scale=alt.Scale(domain=[0, 1]), axis=axis),
            y=alt.Y(field="name", type="nominal", title=None, sort=None, axis=alt.Axis(labelLimit=_LABEL_PX)),
            tooltip=[alt.Tooltip(field="name", type="nominal", title="name"), _tip(("share", x))],
        )
    )
    return _finish(title, caption, drawn, height_px=_BAR_PX * len(bars))


def best_so_far(
    title: str, caption: str, records: Sequence[Record], *, x: tuple[str, str], y: tuple[str, str], best: str
) -> Chart:
    """Return points over whole numbers with a line of steps under them; `best` is the key of the best up to each point."""
    import altair as alt

    whole = alt.Axis(gridOpacity=0.3, tickCount=6, tickMinStep=1, format="d")
    across = alt.X(field=x[0], type="quantitative", title=x[1], scale=alt.Scale(zero=False, nice=True), axis=whole)
    base = alt.Chart(alt.InlineData(values=[dict(record) for record in records])).encode(x=across)
    points = base.mark_circle(size=60, opacity=1, color="gray").encode(
        y=_axis(alt.Y, y, zero=False), tooltip=[_tip(x), _tip(y)]
    )
    steps = base.mark_line(color=_INK, interpolate="step-after").encode(
        y=_axis(alt.Y, (best, y[1]), zero=False), tooltip=[_tip(x), _tip((best, "best so far"))]
    )
    return _finish(title, caption, steps + points)


def front(
    title: str, caption: str, records: Sequence[Record], *, x: tuple[str, str], y: tuple[str, str], flag: str, name: str
) -> Chart:
    """Return points of two goals; a line joins those whose `flag` is 1, `name` is the key of a point's name."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=[dict(record) for record in records])).encode(
        x=_axis(alt.X, x, zero=False), y=_axis(alt.Y, y, zero=False)
    )
    best: Any = alt.datum[flag] == 1
    tips = [alt.Tooltip(field=name, type="nominal", title=name), _tip(x), _tip(y)]
    others = base.transform_filter(~best).mark_circle(size=60, opacity=1, color="gray").encode(tooltip=tips)
    line = base.transform_filter(best).mark_line(
        color=_INK, interpolate="step-after", point=alt.OverlayMarkDef(color=_INK, size=90)
    )
    return _finish(title, caption, others + line.encode(tooltip=tips))


def parallel(
    title: str, caption: str, records: Sequence[Record], *, axis: str, place: str, shown: str, of: tuple[str, str]
) -> Chart:
    """Return parallel coordinates: a line for each value of the key `of[0]`, through its `place` (0 to 1) on every `axis`.

    The axes stand in the order they come; `shown` is the key of the text at a place, written on axes with few of them, and
    `of[1]` that of the number a line is coloured by, the darkest the lowest.
    """
    import altair as alt

    axes = list(dict.fromkeys(str(record[axis]) for record in records))
    across = alt.X(
        field=axis, type="nominal", sort=axes, title=None, axis=alt.Axis(labelAngle=0), scale=alt.Scale(padding=0.3)
    )
    up = alt.Y(field=place, type="quantitative", title="lowest to highest", axis=alt.Axis(labels=False, ticks=False))
    lines = (
        alt.Chart(alt.InlineData(values=[dict(record) for record in records]))
        .mark_line(point=True, opacity=0.8)
        .encode(
            x=across,
            y=up,
            detail=alt.Detail(field=of[0], type="nominal"),
            color=alt.Color(
                field=of[1],
                type="quantitative",
                title=of[1].replace("_", " "),
                scale=alt.Scale(scheme="oranges", reverse=True),
            ),
            tooltip=[
                *(alt.Tooltip(field=name, type="nominal", title=name) for name in (of[0], axis, shown)),
                _tip((of[1], of[1].replace("_", " "))),
            ],
        )
    )
    names = (
        alt.Chart(alt.InlineData(values=_few(records, axis, place, shown)))
        .mark_text(align="left", dx=8, color="gray")
        .encode(x=across, y=up, text=alt.Text(field=shown, type="nominal"))
    )
    return _finish(title, caption, lines + names)


def _few(records: Sequence[Record], axis: str, place: str, shown: str) -> list[dict[str, Any]]:
    """Return each text of the axes that have few of them, once."""
    texts: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        texts.setdefault(str(record[axis]), {})[str(record[shown])] = {name: record[name] for name in (axis, place, shown)}
    return [one for on_axis in texts.values() if len(on_axis) <= _MAX_TEXTS for one in on_axis.values()]


def rate_curve(
    title: str,
    caption: str,
    records: Sequence[Record],
    *,
    x: tuple[str, str],
    y: tuple[str, str],
    even: str,
    mark: float | None,
) -> Chart:
    """Return points over a logarithmic axis with the smoothed line `even` through them, and a rule at `mark`."""
    import altair as alt

    data = alt.InlineData(values=[dict(record) for record in records])
    across = alt.X(
        field=x[0],
        type="quantitative",
        title=x[1],
        scale=alt.Scale(type="log"),
        axis=alt.Axis(gridOpacity=0.3, format=".0e"),
    )
    base = alt.Chart(data).encode(x=across)
    drawn: Any = base.mark_circle(size=20, opacity=0.6, color="gray").encode(
        y=_axis(alt.Y, y, zero=False), tooltip=[_tip(x), _tip(y)]
    )
    drawn += base.mark_line(color=_INK).encode(y=_axis(alt.Y, (even, y[1]), zero=False))
    if mark is not None:
        rule = alt.Chart(alt.InlineData(values=[{x[0]: mark}])).mark_rule(strokeDash=[4, 4], color=_INK)
        drawn += rule.encode(x=alt.X(field=x[0], type="quantitative"), tooltip=[_tip((x[0], "suggested"))])
    return _finish(title, caption, drawn)


def png(chart: Chart, *, scale: float = 2.0) -> bytes:
    """Return a chart as a PNG picture, drawn without a browser and without a network."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(json.dumps({**chart.spec, "background": "white"}), scale=scale))


@cache
def bundle() -> str:
    """Return the JavaScript that draws specifications in a page (about 0.9 MB); no closing script tag is left in it.

    It takes 1.3 s to make and is kept in the user's cache, with its SHA-256 in its first line.
    """
    import vl_convert

    kept = cache_folder() / "charts" / f"{version('vl-convert-python')}-{digest_of(_GLOBALS)[:12]}.js"
    if (found := _kept(kept)) is not None:
        return found
    made = str(vl_convert.javascript_bundle(_GLOBALS)).replace("</script", "<\\/script")
    with suppress(OSError, DiskFull):  # a page needs no cache
        write_atomic(kept, f"{_sum(made)}\n{made}".encode())
    return made


def _kept(path: Path) -> str | None:
    try:
        told, _, text = path.read_bytes().decode().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if told == _sum(text) else None


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _axis(kind: Any, axis: tuple[str, str], *, zero: bool) -> Any:
    import altair as alt

    scale, look = alt.Scale(zero=zero, nice=True), alt.Axis(gridOpacity=0.3, tickCount=6)
    return kind(field=axis[0], type="quantitative", title=axis[1], scale=scale, axis=look)


def _counts(kind: Any, title: str) -> Any:
    """Return an axis of whole numbers."""
    import altair as alt

    look = alt.Axis(gridOpacity=0.3, tickCount=6, tickMinStep=1, format=",d")
    return kind(field="count", type="quantitative", title=title, scale=alt.Scale(zero=True, nice=True), axis=look)


def _tip(axis: tuple[str, str]) -> Any:
    import altair as alt

    return alt.Tooltip(field=axis[0], type="quantitative", title=axis[1], format=".4~g")


def _finish(title: str, caption: str, drawn: Any, *, height_px: int = _HEIGHT_PX) -> Chart:
    spec = drawn.properties(width=_WIDTH_PX, height=height_px).to_dict()
    return Chart(title=title, caption=caption, spec=spec)
