"""Patterns that run in time linear in the text, by RE2, whose binding has no types of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

import re2


class Match(Protocol):
    """Where a pattern was found, in characters."""

    def span(self, group: int = 0) -> tuple[int, int]:
        """Return start and end of a group, (-1, -1) when it took no part."""

    def group(self, group: int = 0) -> str:
        """Return the text of a group that took part."""


class Pattern(Protocol):
    """A compiled pattern."""

    def search(self, text: str) -> Match | None:
        """Find the first match."""

    def finditer(self, text: str) -> Iterator[Match]:
        """Find all matches, which do not overlap."""


def compiled(text: str) -> Pattern:
    """Compile a pattern in RE2's syntax, which is Python's without look-around and back references."""
    return cast(Pattern, cast(Any, re2).compile(text))


def literal(text: str) -> str:
    """Return a pattern that matches a text."""
    return str(cast(Any, re2).escape(text))
