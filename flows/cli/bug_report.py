"""`edgekiln bug-report`: one file without secrets that a person can attach to a report."""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, tree

_DEFAULT_COMMON = Common()


def bug_report(
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("edgekiln-bug-report.md"),
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
    from core.bug_report import write
    from core.redaction import Person

    begin(common)
    told = config.load(profile).model_dump(mode="json") if profile else None
    person = Person(home=Path.home(), user=getpass.getuser(), host=platform.node())
    with tempfile.TemporaryDirectory(prefix="edgekiln-report-") as scratch:
        write(
            output,
            tree(common),
            cache=config.cache_folder(),
            scratch=Path(scratch),
            environ=os.environ,
            person=person,
            config=told,
        )
    answer(
        common, {"written": str(output)}, f"{output} is written. Read it before you attach it anywhere; nothing was sent."
    )
