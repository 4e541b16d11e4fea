"""A store on a real S3 server with a bucket of its own, a proxy before it, and folders to send."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from core.remote.settings import RemoteConfig
from core.remote.store import Store
from core.train import sealed
from tests.core.remote.proxy import Proxy
from tests.core.remote.s3_server import Manners, serve

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


@pytest.fixture(autouse=True)
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
def server() -> Iterator[tuple[int, Manners, Any]]:
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
def place(server: tuple[int, Manners, Any]) -> Iterator[Place]:
    port, manners, client = server
    vars(manners).update(vars(Manners()))
    bucket = f"kiln-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    made = Place(port, bucket, manners, client)
    yield made
    for store in made.stores.values():
        store.close()
    vars(manners).update(vars(Manners()))


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    with Proxy(place.port) as between:
        yield between


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "step-00000010", seed: int = 1, **sizes: int) -> Path:
        made = tmp_path / "here" / name
        for path, size in (sizes or {"model.safetensors": 70_000, "state/rng.bin": 300, "empty": 0}).items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes((seed.to_bytes(4, "big") + path.encode()) * (size // (4 + len(path)) + 1))
            os.truncate(made / path, size)
        sealed.seal(made, {"step": "10"})
        return made

    return make
