"""The kinds of text a field of a profile or a card may hold: names of variables and profiles, addresses."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints


def _endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text repeats what stands for the port: a password, where a slash or an @ is missing
        sound = False
    if not sound:
        raise ValueError("is no http:// or https:// address")
    if parts.username is not None:
        raise ValueError("holds a user or a password: put the key into a variable and name it in label.api_key_env")
    return url


def _no_journal(name: str) -> str:
    if name.casefold() == "journal":  # current/journal.json is the promotion's own file
        raise ValueError("is taken by edgekiln itself")
    return name


VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ProfileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,79}$"), AfterValidator(_no_journal)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
