"""The one chart module: Vega-Lite by altair; as a PNG by vl-convert, or as a specification for a page with one bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from core.contract import Contract

_WIDTH_PX = 640
_HEIGHT_PX = 260
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


def _tip(axis: tuple[str, str]) -> Any:
    import altair as alt

    return alt.Tooltip(field=axis[0], type="quantitative", title=axis[1], format=".4~g")


def _finish(title: str, caption: str, drawn: Any) -> Chart:
    spec = drawn.properties(width=_WIDTH_PX, height=_HEIGHT_PX).to_dict()
    return Chart(title=title, caption=caption, spec=spec)
