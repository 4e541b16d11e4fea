"""The kinds of text a field of a profile or a card may hold: names of variables and profiles, addresses."""

from __future__ import annotations

import re
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
        raise ValueError("holds a user or a password: put the key into a variable and name that in the profile")
    return url


_TOKEN = re.compile(
    r"(hf|gh[pousr]|npm|(sk|rk)_(live|test))_(?=\w*[0-9])(?=\w*[a-z])[A-Za-z0-9]{16,}|github_pat_\w{16,}|(AKIA|ASIA)[0-9A-Z]{16}"
)


def _no_token(name: str) -> str:
    if _TOKEN.fullmatch(name):
        raise ValueError("is a token, as it looks: put it into a variable and give the variable's NAME")
    return name


def _no_journal(name: str) -> str:
    if name.casefold() == "journal":  # current/journal.json is the promotion's own file
        raise ValueError("is taken by edgekiln itself")
    return name


_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*(/[A-Za-z0-9][A-Za-z0-9._=-]*)*")
_MAX_PREFIX_CHARS = 200  # of the 1024 bytes of a key: the rest is for the tree below


def _bucket_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if scheme != "s3" or not _BUCKET.fullmatch(bucket):
        raise ValueError("is no s3://bucket/prefix address")
    if len(prefix) > _MAX_PREFIX_CHARS or (prefix and not _PREFIX.fullmatch(prefix)):
        raise ValueError(
            f"its prefix is not made of names of letters, digits and . _ = -, or has > {_MAX_PREFIX_CHARS} characters"
        )
    return f"s3://{bucket}/{prefix}".rstrip("/")


_REPOSITORY = re.compile(r"hf://[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[A-Za-z0-9][\w./-]{0,199})?", re.ASCII)


def _publish_address(address: str) -> str:
    if address.startswith("s3://"):
        url = _bucket_url(address)
        if url.count("/") < 3:
            raise ValueError("has no prefix: write s3://bucket/prefix, one for each model")
        return url
    if not _REPOSITORY.fullmatch(address):
        raise ValueError("is neither hf://owner/name, hf://owner/name@branch, nor s3://bucket/prefix")
    return address


VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_no_token)]
ProfileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,79}$"), AfterValidator(_no_journal)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
BucketUrl = Annotated[str, AfterValidator(_bucket_url)]
PublishAddress = Annotated[str, AfterValidator(_publish_address)]
