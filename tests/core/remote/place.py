"""A store on a real S3 server with a bucket of its own, and a proxy before it: the fixtures of all who use a second home."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.remote.settings import RemoteConfig
from core.remote.store import Store
from tests.core.remote.proxy import Proxy

if TYPE_CHECKING:
    from tests.core.remote.s3_server import Manners

KEY, SECRET_KEY = "AKIATESTTESTTESTTEST", "hunter2hunter2hunter2hunter2hunter2hunt"


@dataclass
class Place:
    """The server, a bucket in it, and what it was asked."""

    port: int
    bucket: str
    manners: Manners
    client: Any  # straight to the server, for looking and spoiling
    stores: dict[str, Store] = field(default_factory=dict)

    def config(self, port: int | None = None, **more: Any) -> RemoteConfig:
        told = {
            "url": f"s3://{self.bucket}/kiln",
            "endpoint_url": f"http://127.0.0.1:{port or self.port}",
            "region": "us-east-1",
            "access_key_env": "STORE_KEY",
            "secret_key_env": "STORE_SECRET",
            "attempts": 3,
            "part_mib": 5,
        }
        return RemoteConfig(**{**told, **more})

    def store(self, port: int | None = None, **more: Any) -> Store:
        """Return one store for the same settings: making a client takes as long as many requests."""
        told = self.config(port, **more)
        key = told.model_dump_json()
        if key not in self.stores:
            self.stores[key] = Store(told)
        return self.stores[key]

    def names(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key by the names of its variables, and none of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("STORE_KEY", KEY)
    monkeypatch.setenv("STORE_SECRET", SECRET_KEY)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[int, Manners, Any]]:
    import boto3  # only where a store is asked for: it takes a second

    from tests.core.remote.s3_server import Manners, serve

    manners = Manners()
    running = serve(manners)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{running.server_port}"
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **keys)
    yield running.server_port, manners, client
    client.close()
    running.shutdown()
    running.server_close()


@pytest.fixture
def place(s3_server: tuple[int, Manners, Any], keys: None) -> Iterator[Place]:
    port, manners, client = s3_server
    vars(manners).update(vars(type(manners)()))
    bucket = f"kiln-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    made = Place(port, bucket, manners, client)
    yield made
    for store in made.stores.values():
        store.close()
    vars(manners).update(vars(type(manners)()))


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    with Proxy(place.port) as between:
        yield between
