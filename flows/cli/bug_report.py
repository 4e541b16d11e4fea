"""`edgekiln bug-report`: one file without secrets that a person can attach to a report."""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, named_path, tree, write_named

if TYPE_CHECKING:
    from core.redaction import Person

_DEFAULT_COMMON = Common()


def bug_report(
    *,
    output: Annotated[Path, Parameter(alias="-o", converter=named_path)] = Path("edgekiln-bug-report.md"),
    profile: str | None = None,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Write versions, findings, last errors and configuration into one file, without secrets. Nothing is sent anywhere.

    Parameters
    ----------
    output
        File to write
    profile
        Tell this profile's configuration instead of the newest run's
    """
    from core import config
    from core.bug_report import report

    begin(common)
    told = config.load(profile).model_dump(mode="json") if profile else None
    with tempfile.TemporaryDirectory(prefix="edgekiln-report-") as scratch:
        text = report(
            tree(common),
            cache=config.cache_folder(),
            scratch=Path(scratch),
            environ=os.environ,
            person=_person(),
            config=told,
        )
    write_named(output, text)
    answer(
        common, {"written": str(output)}, f"{output} is written. Read it before you attach it anywhere; nothing was sent."
    )


def _person() -> Person:
    """Return whose machine it is; a user of a container may have neither name nor home."""
    from core.redaction import Person

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    return Person(home=Path(os.path.expanduser("~")), user=user, host=platform.node())  # noqa: PTH111 - no error without one
