"""The clock: against the package's files, a real service's Date, and a board's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Severity
from core.env.machine.clock import ServiceDate, board_clock_findings, clock_findings, date_s, newest_file_s, read_date


@pytest.fixture
def service() -> Iterator[str]:
    class Late(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(404)
            self.send_header("Date", "Sat, 01 Jan 2000 00:00:00 GMT")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_clock_before_the_packages_own_files_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_bytes(b"")
    os.utime(path, (2e9, 2e9))

    (finding,) = clock_findings(time.time(), newest_file_s(tmp_path), None, 120)

    assert finding.severity is Severity.ERROR
    assert "2033-05-18T03:33:20Z" in finding.evidence
    assert newest_file_s(tmp_path / "none") == 0.0
    assert clock_findings(time.time(), time.time() + 30, None, 120) == []


def test_a_service_with_another_date_is_a_warning(service: str) -> None:
    told = read_date({"url": service, "timeout_s": 5.0})

    (finding,) = clock_findings(time.time(), 0.0, told, 120)

    assert told.service_s == 946684800.0
    assert finding.severity is Severity.WARNING
    assert f"off the Date of {told.service}" in finding.evidence
    assert read_date({"url": "http://127.0.0.1:9/", "timeout_s": 1.0}).service_s is None
    assert clock_findings(1.0, 0.0, ServiceDate(service="x", service_s=None, asked_s=9e9), 120) == []


def test_a_boards_clock_is_judged_by_this_machines() -> None:
    (finding,) = board_clock_findings("pi", 1000.0, 5000.0, 120)

    assert "-4000 s off" in finding.evidence
    assert board_clock_findings("pi", 1000.0, 1100.0, 120) == []


@given(st.text() | st.none())
def test_any_header_gives_a_date_or_none(header: str | None) -> None:
    assert date_s(header) is None or isinstance(date_s(header), float)
