"""Every way a store fails has an error and a remedy of its own, and none of them repeats a secret."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from moto import settings as moto_settings

from core.errors import (
    ArtifactMissing,
    DiskFull,
    EdgekilnError,
    RemoteClockSkew,
    RemoteCorrupt,
    RemoteFailed,
    RemoteNoBucket,
    RemoteNoCredentials,
    RemoteRefused,
    RemoteSlow,
    RemoteUnconditional,
    RemoteUnreachable,
    RemoteWrongRegion,
    ToolMissing,
    UsageError,
)
from core.files import disk_full_is_an_error
from core.remote.pull import pull
from core.remote.push import push
from core.remote.segments import fetch_segment, put_segment
from core.remote.settings import RemoteConfig
from core.remote.store import Store
from tests.core.remote.conftest import KEY, SECRET_KEY, Place
from tests.core.remote.proxy import Proxy, s3_error

Make = Callable[..., Path]
ROOT = Path(__file__).parents[3]
NAME = "runs/r/a"


def told_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_no_key_anywhere_is_told_with_where_it_is_looked_for(place: Place) -> None:
    store = place.store(access_key_env=None, secret_key_env=None)
    with pytest.raises(RemoteNoCredentials, match="boto3's own chain") as failed:
        store.get("x", 1)
    assert "remote.access_key_env" in failed.value.remedy


def test_a_variable_that_is_not_set_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORE_SECRET")
    with pytest.raises(ToolMissing, match="STORE_SECRET is not set"):
        place.store()


def test_a_profile_of_boto3_that_is_not_there_is_no_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(RemoteNoCredentials):
        place.store(access_key_env=None, secret_key_env=None).get("x", 1)


def test_a_wrong_key_is_refused_and_named_by_its_variable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    with pytest.raises(RemoteRefused, match="InvalidAccessKeyId") as failed:
        place.store().get("x", 1)
    assert "remote.access_key_env=STORE_KEY" in failed.value.problem
    assert KEY not in told_of(failed.value)
    assert SECRET_KEY not in told_of(failed.value)


def test_a_bucket_that_is_not_there_is_told_apart_from_an_object_that_is_not(place: Place) -> None:
    with pytest.raises(ArtifactMissing):
        place.store().get("x", 1)
    with pytest.raises(RemoteNoBucket, match="no such bucket"):
        place.store(url="s3://nobody-made-this").get("x", 1)
    with pytest.raises(RemoteNoBucket):
        place.store(url="s3://nobody-made-this").traits()


ELSEWHERE = "<Region>eu-west-3</Region>"
SAID = [
    (s3_error("403 Forbidden", "SignatureDoesNotMatch"), RemoteRefused, "SignatureDoesNotMatch"),
    (s3_error("403 Forbidden", "AccessDenied"), RemoteRefused, "AccessDenied"),
    (s3_error("400 Bad Request", "ExpiredToken"), RemoteRefused, "ExpiredToken"),
    (s3_error("400 Bad Request", "AuthorizationHeaderMalformed", more=ELSEWHERE), RemoteWrongRegion, "region eu-west-3"),
    (s3_error("301 Moved", "PermanentRedirect", "x-amz-bucket-region: eu-west-3"), RemoteWrongRegion, "eu-west-3"),
    (s3_error("503 Slow Down", "SlowDown"), RemoteSlow, "SlowDown"),
    (s3_error("500 Error", "InternalError"), RemoteSlow, "InternalError"),
    (s3_error("501 No", "NotImplemented"), RemoteUnconditional, "NotImplemented"),
    (s3_error("400 Bad Request", "BadDigest"), RemoteCorrupt, "BadDigest"),
    (s3_error("418 Teapot", "Teapot"), RemoteFailed, "Teapot"),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", RemoteFailed, "without ETag, as no S3 store does"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", RemoteUnreachable, "Connection"),
]


@pytest.mark.parametrize(("answer", "kind", "text"), SAID, ids=[str(number) for number in range(len(SAID))])
def test_what_a_store_answers_becomes_its_own_error(
    place: Place, proxy: Proxy, answer: bytes, kind: type[EdgekilnError], text: str
) -> None:
    proxy.faults.says = [answer] * 4
    with pytest.raises(kind, match=text) as failed:
        place.store(proxy.port, attempts=1).put_plain("x", b"x")
    assert type(failed.value) is kind
    assert failed.value.remedy


def test_a_wrong_clock_says_how_wrong(place: Place, proxy: Proxy) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)
    proxy.faults.says = [s3_error("403 Forbidden", "RequestTimeTooSkewed", f"Date: {date}")]
    with pytest.raises(RemoteClockSkew, match=r"this clock is 7(199|20[0-9]) s ahead"):
        place.store(proxy.port, attempts=1).get("x", 1)


def test_nothing_that_listens_is_unreachable(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RemoteUnreachable, match=f"127.0.0.1:{port}"):
        place.store(port, attempts=1).get("x", 1)


def test_a_silent_store_is_slow_after_its_time(place: Place, proxy: Proxy) -> None:
    proxy.faults.silent = True
    began = time.monotonic()
    with pytest.raises(RemoteSlow, match=r"silent > remote\.timeout_s"):
        place.store(proxy.port, attempts=2, timeout_s=0.3).get("x", 1)
    assert time.monotonic() - began < 5


def test_a_store_that_drips_for_ever_is_slow_too(place: Place, proxy: Proxy) -> None:
    put_segment(place.store(), "s", b"x" * 300_000)
    proxy.faults.down_bytes_s = 500  # a few bytes twenty times a second: no read waits long enough to fail
    began = time.monotonic()
    with pytest.raises(RemoteSlow, match="bytes/s"):
        fetch_segment(place.store(proxy.port, timeout_s=1.0, attempts=1), "s", 1 << 20)
    assert time.monotonic() - began < 10


def test_slow_down_is_waited_out(place: Place, proxy: Proxy, folder: Make, tmp_path: Path) -> None:
    here, store = folder(), place.store(proxy.port, attempts=5)
    store.traits()
    proxy.drop()
    proxy.faults.says = [s3_error("503 Slow Down", "SlowDown")] * 2
    push(store, here, NAME)
    assert proxy.faults.says == []
    pull(place.store(), NAME, tmp_path / "there", max_bytes=1 << 30)


def test_uploads_that_are_cut_in_the_middle_are_sent_again(
    place: Place, proxy: Proxy, folder: Make, tmp_path: Path
) -> None:
    here, store = folder(big=6 << 20, small=100_000), place.store(proxy.port, attempts=5)
    store.traits()
    proxy.drop()
    proxy.faults.cut_up = [30_000, 2_000_000]
    push(store, here, NAME)
    assert proxy.faults.cut_up == []
    there = pull(place.store(), NAME, tmp_path / "there", max_bytes=1 << 30)
    assert (there / "big").read_bytes() == (here / "big").read_bytes()


def test_a_download_that_is_cut_goes_on_where_it_broke(place: Place, proxy: Proxy, folder: Make, tmp_path: Path) -> None:
    here = folder(big=6 << 20)
    push(place.store(), here, NAME)
    store = place.store(proxy.port, threads=1)
    store.get(f"{NAME}/manifest.json", 1 << 20)
    proxy.drop()
    before = len(place.manners.asked)
    proxy.faults.cut_down = [3_000_000, 3_000_000]
    there = pull(store, NAME, tmp_path / "there", max_bytes=1 << 30)
    assert (there / "big").read_bytes() == (here / "big").read_bytes()
    assert proxy.faults.cut_down == []
    assert 2 <= sum(path.endswith("/big") for _, path, _ in place.manners.asked[before:]) <= 4


def test_an_outage_ends_a_push_in_bounded_time_and_the_next_one_goes_on(place: Place, proxy: Proxy, folder: Make) -> None:
    here = folder(a=200_000, b=200_000)
    store = place.store(proxy.port, attempts=2, timeout_s=1.0)
    store.traits()
    proxy.faults.refuse = True
    proxy.drop()
    began = time.monotonic()
    with pytest.raises(RemoteUnreachable):
        push(store, here, NAME)
    assert time.monotonic() - began < 10
    proxy.faults.refuse = False
    assert push(store, here, NAME).files_sent == 3


def test_a_disk_that_fills_up_while_reading_is_told_as_that(place: Place, tmp_path: Path) -> None:
    put_segment(place.store(), "s", b"x" * 300_000)
    with pytest.raises(DiskFull), disk_full_is_an_error(tmp_path), Path("/dev/full").open("wb") as full:
        place.store().read("s", full.write, 1 << 20)


def test_no_secret_is_in_any_repr_or_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="core"):
        store = place.store()
        store.traits()
    for text in (repr(store), str(store), repr(store.config), caplog.text):
        assert SECRET_KEY not in text
        assert KEY not in text


def test_a_proxys_password_is_not_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter2hunter2@127.0.0.1:{port}")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(RemoteUnreachable, match="ProxyConnectionError") as failed:
        place.store(endpoint_url="http://store.invalid", attempts=1).get("x", 1)
    assert "hunter2" not in told_of(failed.value)


def test_a_store_needs_an_address() -> None:
    with pytest.raises(UsageError, match=r"remote\.url is not set"):
        Store(RemoteConfig())


def test_without_boto3_every_module_imports_and_a_store_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['boto3', 'botocore', 's3transfer']))\n"
        "import core.remote.lock, core.remote.pull, core.remote.push, core.remote.segments, core.remote.uploader\n"
        "from core.errors import ToolMissing; from core.remote.settings import RemoteConfig\n"
        "from core.remote.store import Store\n"
        "try: Store(RemoteConfig(url='s3://kiln'))\n"
        "except ToolMissing as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    )
    assert "boto3 is not installed" in done.stdout
    assert "pip install 'edgekiln[remote]'" in done.stdout
