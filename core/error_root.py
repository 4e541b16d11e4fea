"""The root of the failure tree, whose branches are in errors.py and service_errors.py."""

from __future__ import annotations

from typing import ClassVar


class EdgekilnError(Exception):
    """Anything edgekiln refuses or fails at; `str()` is two lines, `[code] problem` and `Fix: remedy`."""

    code: ClassVar[str] = "other"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"[{self.code}] {self.problem}\nFix: {self.remedy}"

    def __reduce__(self) -> tuple[object, tuple[type[EdgekilnError], str, str]]:
        return _restore, (type(self), self.problem, self.remedy)


def _restore(kind: type[EdgekilnError], problem: str, remedy: str) -> EdgekilnError:
    return kind(problem, remedy=remedy)
