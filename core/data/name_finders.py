"""Finders of people's names, which come from other packages by the entry-point group `edgekiln.name_finders`.

Names are told from other words by a model only, and edgekiln has none of its own. An entry point names a function that takes a
text and returns where names stand in it, as pairs of start and end in characters:

    [project.entry-points."edgekiln.name_finders"]
    people = "my_package:names_in"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points

from core.data.limits import PrivacyLimits
from core.data.linear import compiled
from core.data.privacy import NamesUnknown
from core.data.rule_plugins import Guard, origin, told
from core.errors import ToolMissing

GROUP = "edgekiln.name_finders"
Spans = list[tuple[int, int]]

_PLACEHOLDER = compiled(r"<[A-Z_]+_\d+>")


class NameFinder:
    """All installed finders together; what edgekiln put in place of a value is no name."""

    def __init__(self, finders: Iterable[tuple[str, Callable[[str], Iterable[tuple[int, int]]]]]) -> None:
        self._finders = tuple(finders)

    def __call__(self, text: str) -> Spans:
        """Return where names stand, sorted; NamesUnknown when a finder raises or returns no places of the text."""
        own = [found.span() for found in _PLACEHOLDER.finditer(text)] if "<" in text else []
        found = {span for name, finder in self._finders for span in _asked(name, finder, text)}
        return sorted((start, end) for start, end in found if not any(start < last and first < end for first, last in own))


def _asked(name: str, finder: Callable[[str], Iterable[tuple[int, int]]], text: str) -> Spans:
    with Guard() as guard:
        spans = [(int(start), int(end)) for start, end in finder(text)]
    if guard.raised:
        raise NamesUnknown(f"{name} failed with {type(guard.raised).__name__}")  # its message may hold the text
    if wrong := [span for span in spans if not 0 <= span[0] < span[1] <= len(text)]:
        raise NamesUnknown(f"{name} found {wrong[0]}, which is no place in a text of {len(text)} characters")
    return spans


def load_name_finder(limits: PrivacyLimits) -> NameFinder | None:
    """Return the finder when names are to be redacted, else None; ToolMissing where no package finds any or one cannot be loaded."""
    if not limits.redact or "name" not in limits.kinds:
        return None
    finders = [(origin(entry), _loaded(entry)) for entry in _entries()]
    if not finders:
        raise ToolMissing(
            "data.privacy.kinds asks for name, and no installed package finds names",
            remedy=f"Install one that offers the entry-point group {GROUP}, or take name out of data.privacy.kinds.",
        )
    return NameFinder(finders)


def identity() -> str:
    """Return which packages find names, as what they are decides what is redacted."""
    return ", ".join(sorted({origin(entry) for entry in _entries()}))


def _entries() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry: (origin(entry), entry.name))


def _loaded(entry: EntryPoint) -> Callable[[str], Iterable[tuple[int, int]]]:
    with Guard() as guard:
        finder: Callable[[str], Iterable[tuple[int, int]]] = entry.load()
        if not callable(finder):
            raise TypeError(f"it gives {type(finder).__name__}, not a function")
        return finder
    raise ToolMissing(
        f"data.privacy.kinds asks for name, and {origin(entry)}, {entry.name}, cannot be loaded: {told(guard.raised)}",
        remedy=f"Update or uninstall {origin(entry).split(maxsplit=1)[0]}, or take name out of data.privacy.kinds.",
    )
