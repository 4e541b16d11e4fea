"""One bucket and prefix: objects put, read, looked at and listed by name; every failure is an error of ours."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from core.config import secret
from core.errors import (
    ArtifactError,
    ArtifactMissing,
    RemoteFailed,
    RemoteSlow,
    RemoteUnconditional,
    RemoteUnreachable,
    ToolMissing,
    UsageError,
)
from core.remote.failures import UNCONDITIONAL_REMEDY, ConditionFailed, recognised
from core.remote.keys import key_of, path_of
from core.remote.settings import RemoteConfig

SHA256 = "edgekiln-sha256"  # own metadata of every object: a store need not know checksums to keep it
_CHUNK_BYTES = 1 << 20
_LEAST_BYTES_PER_S = 1024  # what drips slower is as good as silent
_MAX_LISTED = 1_000_000
_LOOK = "Look what lies there, and push it again from where it is whole."


@dataclass(frozen=True)
class Traits:
    """What a store was seen to do: refuse bytes that do not fit their SHA-256, keep to If-None-Match and If-Match."""

    checks_sha256: bool
    conditional: bool


@dataclass(frozen=True)
class Stat:
    """What is known of an object; `sha256` is the sender's, `age_s` since it was written, both by the store's own clock."""

    name: str
    bytes: int
    etag: str
    sha256: str | None
    age_s: float


@dataclass(frozen=True)
class Listed:
    """An object in a list."""

    name: str
    bytes: int
    modified: datetime


@dataclass
class _Got:
    """How far the reading of an object is."""

    began: float
    stat: Stat | None = None
    done: int = 0


class Store:
    """A handle on the tree in the bucket; names are relative paths below the prefix. Safe to use from several threads."""

    def __init__(self, config: RemoteConfig) -> None:
        if config.url is None:
            raise UsageError("remote.url is not set", remedy="Give the bucket: --set remote.url=s3://bucket/prefix")
        self.config = config
        self.bucket, _, self.prefix = config.url.removeprefix("s3://").partition("/")
        host = urlsplit(config.endpoint_url or "").netloc
        self.where = config.url + (f" at {host}" if host else "")
        self.encrypted = not (config.endpoint_url or "https:").startswith("http:")
        self._traits: Traits | None = None
        self._probing = threading.Lock()
        self.client = _client(config, self.recognised)

    def __repr__(self) -> str:
        return f"Store({self.where})"

    def __enter__(self) -> Store:
        """Return the open store."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self.client.close()

    def recognised(self) -> AbstractContextManager[None]:
        """Return a context that turns what the client raises into errors of ours."""
        return recognised(self.where, _key_names(self.config))

    def key(self, name: str) -> str:
        """Return the key of a name."""
        return key_of(self.prefix, name)

    def traits(self) -> Traits:
        """Return what the store was seen to do; the first call writes two small objects and takes them away."""
        from core.remote.probe import look  # it needs this module

        with self._probing:
            if self._traits is None:
                self._traits = look(self)
            return self._traits

    def put(self, name: str, data: bytes, *, new: bool = False, etag: str | None = None) -> str:
        """Write an object and return its etag; ConditionFailed when it exists (`new`) or is not the one of `etag`.

        RemoteUnconditional for a condition that this store was seen not to keep.
        """
        if (new or etag) and not self.traits().conditional:
            raise RemoteUnconditional(
                f"{self.where} does not keep to the conditions of a write", remedy=UNCONDITIONAL_REMEDY
            )
        more = {"IfNoneMatch": "*"} if new else {"IfMatch": etag} if etag else {}
        return self.put_plain(name, data, **self.checksum(hashlib.sha256(data).hexdigest()), **more)

    def put_plain(self, name: str, data: bytes, **more: str) -> str:
        """Write an object with the parameters of PutObject in `more` and return its etag."""
        told = {SHA256: hashlib.sha256(data).hexdigest()}
        with self.recognised():
            answer = self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=data, Metadata=told, **more)
        return str(_told(answer, "ETag", self.where))

    def checksum(self, sha256: str) -> dict[str, str]:
        """Return the parameter that lets the store check a whole object's SHA-256, none where it would not."""
        return {"ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()} if self.traits().checks_sha256 else {}

    def stat(self, name: str) -> Stat | None:
        """Look at an object; None when there is none."""
        try:
            with self.recognised():
                return self._stat(name, self.client.head_object(Bucket=self.bucket, Key=self.key(name)))
        except ArtifactMissing:
            return None

    def _stat(self, name: str, answer: Any) -> Stat:
        written = _told(answer, "LastModified", self.where)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else written
        return Stat(
            name=name,
            bytes=_told(answer, "ContentLength", self.where),
            etag=_told(answer, "ETag", self.where),
            sha256=answer.get("Metadata", {}).get(SHA256),
            age_s=(now - written).total_seconds(),
        )

    def get(self, name: str, max_bytes: int) -> tuple[bytes, Stat]:
        """Read a small object; ArtifactMissing, ArtifactError when it is larger than `max_bytes`."""
        held = BytesIO()
        stat = self.read(name, held.write, max_bytes)
        return held.getvalue(), stat

    def read(self, name: str, write: Callable[[bytes], object], max_bytes: int) -> Stat:
        """Hand on an object's bytes in order, each once; a connection that breaks is taken up where it broke.

        ArtifactMissing; ArtifactError when it is larger than `max_bytes`, is replaced meanwhile, or ends early.
        """
        got = _Got(began=time.perf_counter())
        tries, before = 0, 0
        while True:
            try:
                with self.recognised():
                    return self._go_on(name, write, max_bytes, got)
            except (RemoteUnreachable, RemoteSlow):
                tries, before = (1 if got.done > before else tries + 1), got.done
                if tries >= self.config.attempts or self._drips(got):
                    raise
                pause(tries)
            except ConditionFailed as error:
                raise ArtifactError(
                    f"{name} in {self.where} was replaced while it was read", remedy="Try again."
                ) from error

    def _go_on(self, name: str, write: Callable[[bytes], object], max_bytes: int, got: _Got) -> Stat:
        more = {"Range": f"bytes={got.done}-", "IfMatch": got.stat.etag} if got.stat and got.done else {}
        answer = self.client.get_object(Bucket=self.bucket, Key=self.key(name), **more)
        with answer["Body"] as body:
            got.stat = got.stat or self._stat(name, answer)
            if got.stat.bytes > max_bytes:
                raise ArtifactError(f"{name} in {self.where} has {got.stat.bytes} bytes > {max_bytes}", remedy=_LOOK)
            while piece := body.read1(_CHUNK_BYTES):  # what is there, so that a drip is noticed
                got.done += len(piece)
                if got.done > got.stat.bytes:  # a store that ignores Range begins anew
                    raise ArtifactError(f"{name} in {self.where} gave > {got.stat.bytes} bytes, its size", remedy=_LOOK)
                write(piece)
                if self._drips(got):
                    raise RemoteSlow(
                        f"{name} from {self.where} came with < {_LEAST_BYTES_PER_S} bytes/s",
                        remedy="Look after the network and the store, then run the same command again.",
                    )
        if got.done < got.stat.bytes:
            raise ConnectionResetError
        return got.stat

    def _drips(self, got: _Got) -> bool:
        return time.perf_counter() - got.began > self.config.timeout_s + got.done / _LEAST_BYTES_PER_S

    def listed(self, below: str) -> Iterator[Listed]:
        """Yield the objects below a folder, by name; keys that edgekiln never makes are passed over."""
        prefix = f"{self.key(below)}/"
        with self.recognised():
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, PaginationConfig={"MaxItems": _MAX_LISTED}
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    try:
                        name = path_of(self.prefix, entry["Key"])
                    except ArtifactError:
                        continue
                    yield Listed(name, entry["Size"], entry["LastModified"])

    def delete(self, name: str) -> None:
        """Take an object away; none there is no failure."""
        with self.recognised():
            self.client.delete_object(Bucket=self.bucket, Key=self.key(name))

    def abort_unfinished(self, below: str) -> int:
        """Take away the parts of multipart uploads below a folder that a kill left, and return how many uploads there were."""
        count = 0
        with self.recognised():
            listing = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.key(below)}/")
            for upload in listing.get("Uploads", ()):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                count += 1
        return count


def pause(tries: int) -> None:
    """Wait before try number `tries` + 1: twice as long each time, at most 20 s, with jitter."""
    time.sleep(random.uniform(0.5, 1.0) * min(20.0, 0.1 * 2**tries))  # noqa: S311 - spreads retries, guards nothing


def _told(answer: Any, name: str, where: str) -> Any:
    if name not in answer:
        raise RemoteFailed(f"{where} answers without {name}, as no S3 store does", remedy="Mend remote.endpoint_url.")
    return answer[name]


def _key_names(config: RemoteConfig) -> str:
    if config.access_key_env:
        return f"remote.access_key_env={config.access_key_env}, remote.secret_key_env={config.secret_key_env}"
    return "remote.access_key_env is not set: boto3's own chain was asked"


def _client(config: RemoteConfig, recognising: Callable[[], AbstractContextManager[None]]) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ToolMissing("boto3 is not installed, remote.url needs it", remedy="pip install 'edgekiln[remote]'") from error
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    keys = {name: secret(env) for name, env in zip(names, config.secret_names(), strict=False)}
    told = Config(
        connect_timeout=config.connect_timeout_s,
        read_timeout=config.timeout_s,
        retries={"mode": "standard", "total_max_attempts": config.attempts},  # with jitter, and a quota for outages
        max_pool_connections=config.threads + 4,
        # boto3's own default checksums are trailers that older stores refuse; ours are asked for where the store checks them,
        # elsewhere boto3 signs the bytes themselves
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3={"addressing_style": "path" if config.endpoint_url else "auto"},
    )
    with recognising():
        session = boto3.session.Session(region_name=config.region, **keys)
        return session.client("s3", endpoint_url=config.endpoint_url, config=told)
