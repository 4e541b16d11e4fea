"""`edgekiln config`: check a profile, write the JSON Schema of profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.session import Common, answer, named_path, write_named

app = App(name="config")
_DEFAULT_COMMON = Common()


@app.command
def check(
    profile: str,
    *,
    changes: Annotated[tuple[str, ...], Parameter("--set", negative=())] = (),
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Check a profile and the cards it names; every mistake is told at once.

    Parameters
    ----------
    profile
        A shipped profile, one of your own, or a YAML file
    changes
        Change a field first: --set train.lora.r=32
    """
    from core import catalogue, config

    loaded = config.load(profile, changes)
    catalogue.check_cards(loaded, config.find_profile(profile).parent)
    answer(common, loaded.model_dump(mode="json"), f"{profile} is sound: {loaded.description}")


@app.command
def schema(
    *,
    output: Annotated[Path | None, Parameter(alias="-o", converter=named_path)] = None,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Print the JSON Schema of a profile, or write it to a file for an editor to use.

    Parameters
    ----------
    output
        File to write
    """
    from core.config import json_schema

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False)
    if output is None:
        answer(common, json_schema(), text, exact=True)
    else:
        write_named(output, text)
