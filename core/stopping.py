"""What a stop from outside, Ctrl-C or SIGTERM, is as an error."""

from __future__ import annotations

from core.errors import Interrupted, Terminated


def stop_of(error: BaseException, again: str) -> Interrupted | Terminated | None:
    """Return the error that stands for a stop from outside, None for any other; `again` is its remedy."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Ctrl-C: stopped, what is finished is kept", remedy=again)
    if type(error).__name__ == "TerminationSignal":  # Prefect's own, named so that Prefect need not be imported
        return Terminated("SIGTERM: stopped, what is finished is kept", remedy=again)
    return None
