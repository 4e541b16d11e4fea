"""A board over the system's ssh and sftp, against a real SSH server."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from core.bench import device as devices
from core.bench.bench import bench
from core.bench.device import Job
from core.bench.ssh import SshDevice
from core.catalogue import DeviceCard
from core.config import BenchConfig
from core.contract import Origin
from core.errors import BoardUnreachable, ProcessFailed, ToolMissing
from core.events import Event, Note, Progress, Resumed, ignore
from core.nouns import GgufModel
from core.telemetry import read_samples
from core.workspace import Workspace
from tests.core.bench.conftest import Board

BENCH_ROWS = (
    '{"cpu_info": "CPU", "n_threads": 4, "n_prompt": 8, "n_gen": 0, "samples_ts": [90.5, 91.5]}\n'
    '{"cpu_info": "CPU", "n_threads": 4, "n_prompt": 0, "n_gen": 4, "samples_ts": [9.5, 9.75]}\n'
)


def card(llama_bench: str = "llama-bench", folder: str = "edge kiln/it's", host: str = "pi") -> DeviceCard:
    return DeviceCard(name="pi5", kind="ssh", host=host, folder=folder, llama_bench=llama_bench)


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def job(tmp_path: Path, content: bytes = b"GGUF of a student") -> Job:
    gguf = tmp_path / 'the "student"-Q4_0.gguf'
    gguf.write_bytes(content)
    return Job(
        gguf=gguf,
        sha256=hashlib.sha256(content).hexdigest(),
        n_prompt=8,
        n_gen=4,
        repetitions=2,
        threads=1,
        timeout_s=20,
        output=tmp_path / "out.jsonl",
        telemetry=tmp_path / "telemetry.jsonl",
        log=tmp_path / "out.log",
    )


def test_the_board_is_described_over_ssh(board: Board) -> None:
    device = SshDevice(card(), ignore)
    facts = device.facts()
    assert facts.cpus_usable >= 1
    assert facts.ram_bytes
    assert facts.arch
    assert device.memory().total_bytes == facts.ram_bytes
    assert SshDevice(card(), ignore).facts() == facts


def test_a_model_is_uploaded_once_and_what_the_board_wrote_is_fetched(
    board: Board, tmp_path: Path, events: list[Event]
) -> None:
    program(board.bin / "llama-bench", f"sleep 1.2; printf '%s' '{BENCH_ROWS}'")
    program(board.bin / "vcgencmd", "echo throttled=0x50000")
    device = SshDevice(card(), events.append)
    asked = job(tmp_path)
    device.measure(asked)
    device.measure(asked)
    assert asked.output.read_text() == BENCH_ROWS
    uploads = [event for event in events if isinstance(event, Progress)]
    assert len(uploads) == 2  # begun and done, for the first of the two measurements
    (model,) = (board.home / "edge kiln/it's").glob("*.gguf")
    assert model.read_bytes() == asked.gguf.read_bytes()
    assert asked.sha256[:16] in model.name
    samples = read_samples(asked.telemetry)
    assert len(samples) >= 6
    assert [samples[0].throttled_bits, samples[-1].throttled_bits] == [0x50000, 0x50000]
    assert samples[0].load_1min is not None
    left = {path.name for path in (board.home / "edge kiln/it's").iterdir()}
    assert left == {model.name, "lock"}


def test_a_model_that_changed_on_the_board_is_uploaded_again(board: Board, tmp_path: Path) -> None:
    program(board.bin / "llama-bench", f"printf '%s' '{BENCH_ROWS}'")
    device = SshDevice(card(folder="edgekiln"), ignore)
    device.measure(job(tmp_path))
    (model,) = (board.home / "edgekiln").glob("*.gguf")
    model.write_bytes(b"broken")
    device.measure(job(tmp_path))
    assert model.read_bytes() == b"GGUF of a student"


def test_an_upload_with_another_hash_is_refused_and_removed(board: Board, tmp_path: Path) -> None:
    asked = job(tmp_path)
    asked.gguf.write_bytes(b"other bytes")
    with pytest.raises(BoardUnreachable, match="has not sha256"):
        SshDevice(card(folder="edgekiln"), ignore).measure(asked)
    assert list((board.home / "edgekiln").iterdir()) == []


def test_a_benchmark_that_dies_leaves_its_whole_rows_and_its_words(board: Board, tmp_path: Path) -> None:
    first = BENCH_ROWS.splitlines()[0]
    program(board.bin / "llama-bench", f"printf '%s\\n' '{first}'; echo out of memory >&2; exit 9")
    asked = job(tmp_path)
    with pytest.raises(ProcessFailed, match=r"status 9: out of memory"):
        SshDevice(card(), ignore).measure(asked)
    assert asked.output.read_text() == first + "\n"


def test_a_benchmark_that_overruns_its_time_is_stopped_on_the_board(board: Board, tmp_path: Path) -> None:
    program(board.bin / "llama-bench", "exec sleep 30")
    asked = job(tmp_path)
    asked = Job(**{**asked.__dict__, "timeout_s": 0.5})
    with pytest.raises(ProcessFailed, match="status 124"):
        SshDevice(card(), ignore).measure(asked)


def test_a_board_without_llama_bench_says_where_to_name_it(board: Board) -> None:
    with pytest.raises(ToolMissing, match=r"no-such-bench is not on pi(.|\n)*devices/pi5\.yaml"):
        SshDevice(card("no-such-bench"), ignore).tool()


def test_a_script_as_llama_bench_has_an_identity_but_no_machine(board: Board) -> None:
    program(board.bin / "llama-bench", "echo version: 4567 '(abc1234)'")
    tool = SshDevice(card(), ignore).tool()
    assert tool.identity.startswith("4567 (abc1234), sha256 ")
    assert tool.arch is None


def test_a_host_whose_key_is_not_the_known_one_is_refused(board: Board) -> None:
    known = board.config.parent / "known_hosts"
    text = board.config.with_name("authorized_keys").read_text()
    known.write_text(f"[127.0.0.1]:{board.port} {text}")
    with pytest.raises(BoardUnreachable, match=r"(?s)device pi5: .*Fix: Try `ssh -o BatchMode=yes pi true`"):
        SshDevice(card(), ignore)


def test_a_board_that_is_off_is_unreachable(board: Board) -> None:
    board.config.write_text(board.config.read_text().replace(f"Port {board.port}", "Port 1"))
    with pytest.raises(BoardUnreachable, match="status 255") as caught:
        SshDevice(card(), ignore)
    assert caught.value.retryable


def test_without_an_ssh_client_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="openssh-client"):
        SshDevice(card(), ignore)


@pytest.fixture
def my_pi(board: Board, tmp_path: Path) -> Path:
    """Describe the board in a card beside a profile; its llama-bench answers at once."""
    program(board.bin / "llama-bench", f"printf '%s' '{BENCH_ROWS}'")
    beside = tmp_path / "beside"
    (beside / "devices").mkdir(parents=True)
    (beside / "devices" / "my-pi.yaml").write_text("kind: ssh\nhost: pi\n")
    return beside


def test_the_stage_measures_on_the_board(
    my_pi: Path, workspace: Workspace, publish_model: Callable[[bytes], GgufModel]
) -> None:
    config = BenchConfig(device="my-pi", n_prompt=8, n_gen=4, repetitions=2, process_starts=1)
    run = bench(publish_model(b"a student"), config, workspace, beside=my_pi)
    assert run.metrics == {"pp_tps.Q8_0": 91.0, "tg_tps.Q8_0": 9.625, "pp_tps.Q4_0": 91.0, "tg_tps.Q4_0": 9.625}
    assert {m.origin for m in run.measurements} == {Origin.MEASURED}
    assert run.telemetry.samples >= 4
    assert run.device == "my-pi"
    assert run.inputs == (run.device_host.fingerprint,)


def test_a_busy_device_is_told(
    my_pi: Path,
    board: Board,
    workspace: Workspace,
    publish_model: Callable[[bytes], GgufModel],
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program(board.bin / "nproc", "echo 4")
    monkeypatch.setattr("core.bench.bench._BUSY_LOAD_PER_CPU", -1.0)
    config = BenchConfig(device="my-pi", n_prompt=8, n_gen=4, repetitions=2, process_starts=1)
    bench(publish_model(b"a student"), config, workspace, events.append, beside=my_pi)
    (told,) = (event for event in events if isinstance(event, Note))
    assert "my-pi was busy when the benchmark began" in told.text
    assert "on 4 CPUs" in told.text


def test_a_connection_lost_while_measuring_stops_the_stage_and_the_next_run_goes_on(
    board: Board, my_pi: Path, workspace: Workspace, publish_model: Callable[[bytes], GgufModel], events: list[Event]
) -> None:
    config = BenchConfig(device="my-pi", n_prompt=8, n_gen=4, repetitions=2, process_starts=1)
    model = publish_model(b"a student")
    board.drop_measurement = 2
    with pytest.raises(BoardUnreachable):
        bench(model, config, workspace, beside=my_pi)
    run = bench(model, config, workspace, events.append, beside=my_pi)
    assert [event.done for event in events if isinstance(event, Resumed)] == [1]
    assert all(m.error is None for m in run.measurements)
    assert board.measurements == 3


@pytest.mark.model
def test_the_real_llama_bench_runs_on_the_board(board: Board, tmp_path: Path, toolchain, default_gguf: Path) -> None:
    program_path = toolchain.program("llama-bench")
    device = devices.open_device(card(str(program_path)), ignore)
    assert device.tool().arch == device.facts().arch
    asked = job(tmp_path, default_gguf.read_bytes())
    device.measure(asked)
    assert asked.output.read_text().count('"samples_ts"') == 2
