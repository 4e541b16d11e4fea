"""The one Jinja2 environment: templates of this package, escaping always on, an unknown name is an error."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from core.report.visible import visible


def _shown(value: object) -> object:
    """Return text that comes from outside without what can drive a reader's display; Markup is a template's own."""
    return visible(value, keep="\n\t") if type(value) is str else value


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )


def fill(template: str, **values: object) -> Markup:
    """Return a template filled with values; whatever is not Markup is escaped."""
    return Markup(_environment().get_template(template).render(**values))  # noqa: S704 - the template escaped its values
