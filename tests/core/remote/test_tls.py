"""Over TLS, as AWS is spoken to: bodies are not signed then, so every part carries its SHA-256; a strange certificate is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from werkzeug.serving import make_ssl_devcert

from core.errors import RemoteUnreachable
from core.remote.pull import pull
from core.remote.push import push
from core.remote.settings import RemoteConfig
from core.remote.store import Store
from tests.core.remote.conftest import KEY, SECRET_KEY
from tests.core.remote.s3_server import Manners, serve


@pytest.fixture
def manners() -> Manners:
    return Manners()


@pytest.fixture
def config(manners: Manners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteConfig]:
    certificate, key = make_ssl_devcert(str(tmp_path / "tls"), host="localhost")
    server = serve(manners, (certificate, key))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"https://localhost:{server.server_port}"
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, verify=certificate, **keys)
    client.create_bucket(Bucket="kiln-tls")
    client.close()
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
    names = {"access_key_env": "STORE_KEY", "secret_key_env": "STORE_SECRET", "region": "us-east-1"}
    yield RemoteConfig(url="s3://kiln-tls", endpoint_url=url, part_mib=5, attempts=2, **names)
    server.shutdown()
    server.server_close()


def test_every_part_over_tls_carries_its_sum(
    config: RemoteConfig, manners: Manners, folder: Callable[..., Path], tmp_path: Path
) -> None:
    here = folder(big=12 << 20, small=1000)
    with Store(config) as store:
        push(store, here, "r/a")
        there = pull(store, "r/a", tmp_path / "there", max_bytes=1 << 30)
    assert (there / "big").read_bytes() == (here / "big").read_bytes()
    assert manners.trailers == ["x-amz-checksum-sha256"] * 3


def test_a_certificate_that_nobody_trusts_is_told_as_that(config: RemoteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with (
        Store(config.model_copy(update={"attempts": 1})) as store,
        pytest.raises(RemoteUnreachable, match="SSLError") as failed,
    ):
        store.get("x", 1)
    assert "AWS_CA_BUNDLE" in failed.value.remedy
