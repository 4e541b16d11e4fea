"""Clouds: firmware's texts laid out as they are there, and metadata services on the loopback interface."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from core.env.machine.cloud import cloud_findings, provider_of, read_cloud

DMI = "sys/class/dmi/id"


class Metadata(BaseHTTPRequestHandler):
    """Speaks IMDSv2, GCP's and Azure's dialect; `spot` and `broken` are set by the test."""

    spot = True
    broken = False

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's own signature
        pass

    def do_PUT(self) -> None:
        ok = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer(200 if ok and not self.broken else 403, "token-1")

    def do_GET(self) -> None:
        if self.broken:
            return self._answer(200, "<html>")
        if self.path == "/latest/meta-data/instance-life-cycle":
            ok = self.headers["X-aws-ec2-metadata-token"] == "token-1"
            return self._answer(200 if ok else 401, "spot" if self.spot else "on-demand")
        if self.path == "/computeMetadata/v1/instance/scheduling/preemptible":
            return self._answer(200 if self.headers["Metadata-Flavor"] == "Google" else 403, str(self.spot).upper())
        return self._answer(200, json.dumps({"priority": "Spot" if self.spot else "Regular"}))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def firmware(root: Path, **fields: str) -> str:
    for name, value in fields.items():
        path = root / DMI / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="utf-8")
    return str(root)


CLOUDS = {
    "AWS": {"sys_vendor": "Amazon EC2", "product_name": "g5.xlarge"},
    "GCP": {"sys_vendor": "Google", "product_name": "Google Compute Engine"},
    "Azure": {"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
}


@pytest.mark.parametrize("provider", CLOUDS)
@pytest.mark.parametrize("spot", [True, False])
def test_each_provider_tells_whether_it_may_take_the_machine_away(
    provider: str, spot: bool, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Metadata, "spot", spot)

    found = read_cloud({"root": firmware(tmp_path, **CLOUDS[provider]), "address": service})

    assert (found.provider, found.spot) == (provider, spot)
    assert [finding.code for finding in cloud_findings(found)] == (["spot"] if spot else [])


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_metadata_service_that_answers_nonsense_is_an_unknown(
    provider: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Metadata, "broken", True)

    found = read_cloud({"root": firmware(tmp_path, **CLOUDS[provider]), "address": service})

    assert (found.provider, found.spot) == (provider, None)


def test_a_metadata_service_that_never_answers_costs_a_second(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.perf_counter()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        found = read_cloud({"root": firmware(tmp_path, **CLOUDS["AWS"]), "address": address})

    assert time.perf_counter() - started < 2.5
    assert found.spot is None
    assert "no answer from" in found.evidence


def test_off_a_cloud_nothing_is_asked(tmp_path: Path) -> None:
    started = time.perf_counter()

    own = read_cloud({"root": firmware(tmp_path, sys_vendor="LENOVO", chassis_asset_tag="No Asset Information")})
    none = read_cloud({"root": str(tmp_path / "empty")})

    assert time.perf_counter() - started < 0.2
    assert own.provider is none.provider is None
    assert own.evidence != none.evidence


def test_a_plain_hyper_v_machine_is_no_cloud_and_a_small_provider_is_named() -> None:
    assert provider_of({"sys_vendor": "Microsoft Corporation"}) == (None, "")
    assert provider_of({"sys_vendor": "Hetzner"})[0] == "Hetzner"
