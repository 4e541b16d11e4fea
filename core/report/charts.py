"""The one chart module: Vega-Lite by altair; as a PNG by vl-convert, or as a specification for a page with one bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from core.contract import Contract

_WIDTH_PX = 640
_HEIGHT_PX = 260
_BAR_PX = 24
_LABEL_PX = 220
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


def png(chart: Chart, *, scale: float = 2.0) -> bytes:
    """Return a chart as a PNG picture, drawn without a browser and without a network."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(json.dumps({**chart.spec, "background": "white"}), scale=scale))


@cache
def bundle() -> str:
    """Return the JavaScript that draws specifications in a page (about 0.9 MB); no closing script tag is left in it."""
    import vl_convert

    return str(vl_convert.javascript_bundle(_GLOBALS)).replace("</script", "<\\/script")


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
