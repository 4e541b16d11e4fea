"""Labelling against an endpoint, and the ledger: rate beside a bare load loop, cost of a request, status of a million.

Each figure has a variant that is broken on purpose and must miss it.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import pytest

from core.config import LabelConfig
from core.contract import Limit, judge
from core.data.record import Message
from core.events import ignore
from core.label.account import Account
from core.label.asking import Asker
from core.label.entries import Spent
from core.label.ledger import open_ledger
from core.label.request import Reply, Request
from core.label.teachers import open_teacher
from tests.benchmarks.meter import edgekiln, measure, reached

Record = Callable[[str, object], None]

REQUEST_MS = 1.0
STATUS_S = 1.0
SHARE_OF_BARE = 0.95
MORE_MIB = 50
MILLION = 1_000_000
QUESTIONS = 64
LEVELS = (1, 2, 4, 8, 16)
_SERVER_SLOTS = 8
_NO_CACHE = {"cache_prompt": False}  # else the second pass over the same prompts is faster than the first


def _request(number: int) -> Request:
    text = f"What does function number {number} of a module do in Python? Answer in one sentence."
    return Request(
        teacher="t",
        messages=(Message(role="user", content=text),),
        temperature=0.0,
        max_tokens=24,
        seed=1,
        extra_body=_NO_CACHE,
    )


_REPLY = Reply(text="It returns a number." * 10, finish_reason="stop", prompt_tokens=30, completion_tokens=24, latency_ms=9)


def _ms_a_request(path: Path, requests: int, *, scans: bool = False) -> float:
    """Write so many requests and answers and return the median time of one, in ms."""
    taken: list[float] = []
    with open_ledger(path) as ledger:
        for number in range(requests):
            request = _request(number)
            began = time.perf_counter()
            known = scans and any(record["key"] == request.key for record in ledger.records())
            if not known and ledger.find(request.key) is None:
                ledger.begin(request)
                ledger.commit(request.key, _REPLY, 0.001)
            taken.append(1000 * (time.perf_counter() - began))
    return median(taken)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_request_costs_the_ledger_less_than_a_millisecond(tmp_path: Path, record_property: Record) -> None:
    figure = _ms_a_request(tmp_path / "ledger.sqlite", 5000)
    broken = _ms_a_request(tmp_path / "broken.sqlite", 500, scans=True)
    record_property(f"the ledger's part of a request, median [ms], limit {REQUEST_MS}", round(figure, 3))
    record_property("broken on purpose: all requests are read to find one [ms]", round(broken, 3))
    assert reached("ms", figure, REQUEST_MS)
    assert not reached("ms", broken, REQUEST_MS)


def _million(path: Path) -> None:
    """Write a ledger of a million answered requests, as labellings write them."""
    with open_ledger(path) as ledger:
        ledger.start("artifact0000", "endpoint:test", questions=MILLION, reused=0)
        ledger.tell(MILLION)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    text = '{"messages": [{"role": "user", "content": "' + "a question of some length " * 20 + '"}]}'
    rows = (
        (
            f"{number:064x}",
            text,
            _REPLY.text,
            f"2026-01-01T{number // 41667:02}:{number // 695 % 60:02}:00.000+00:00",
            number / 12,
        )
        for number in range(MILLION)
    )
    connection.executemany(
        "INSERT INTO requests (key, state, teacher, request, answer, finish_reason, prompt_tokens, completion_tokens,"
        " latency_ms, sent, attempts, first_sent_at, finished_at, answered_s, session,"
        " cost) VALUES (?, 'answered', 'endpoint:test', ?, ?, 'stop', 30, 24, 9.0, 1, 1, '2026-01-01', ?, ?, 1, 0.001)",
        rows,
    )
    connection.commit()
    connection.close()


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_ledger_of_a_million_prompts_tells_its_status_in_a_second(tmp_path: Path, record_property: Record) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "artifacts").mkdir(parents=True)
    (workspace / "ledger").mkdir()
    _million(workspace / "ledger" / "label.sqlite")
    command = edgekiln("label", "status", "--workspace", str(workspace), "--json")
    runs = [measure(command, tmp_path / f"run{number}") for number in range(3)]
    assert '"answered": 1000000' in runs[0].stdout, runs[0].stderr
    figure = median(run.seconds for run in runs)
    reads_all = (
        "import sys; from pathlib import Path; from core.label.ledger import open_ledger\n"
        "with open_ledger(Path(sys.argv[1])) as ledger:\n"
        "    print(sum(record['reply']['prompt_tokens'] for record in ledger.records()))"
    )
    argv = [sys.executable, "-c", reads_all, str(workspace / "ledger" / "label.sqlite")]
    broken = measure(argv, tmp_path / "broken").seconds
    record_property(f"status of a million prompts, the whole command [s], limit {STATUS_S}", round(figure, 2))
    record_property("broken on purpose: every request is read [s]", round(broken, 2))
    assert reached("seconds", figure, STATUS_S)
    assert not reached("seconds", broken, STATUS_S)


def _peak_mib(folder: Path, prompts: int, keep: str = "none") -> float:
    run = measure([sys.executable, "-m", "tests.benchmarks.label_memory", str(folder / "w"), str(prompts), keep], folder)
    assert run.status == 0, run.stderr
    return float(run.stdout)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_ten_times_the_prompts_take_no_more_memory(tmp_path: Path, record_property: Record) -> None:
    few = _peak_mib(tmp_path / "few", 10_000)
    figure = _peak_mib(tmp_path / "many", 100_000) - few
    broken = _peak_mib(tmp_path / "broken", 100_000, "keep") - few
    record_property("labelling 10,000 prompts, peak [MiB]", round(few))
    record_property(f"100,000 prompts take more by [MiB], limit {MORE_MIB}", round(figure))
    record_property("broken on purpose: every request is kept [MiB]", round(broken))
    assert reached("mib", figure, MORE_MIB)
    assert not reached("mib", broken, MORE_MIB)


@pytest.fixture
def endpoint(toolchain, default_gguf: Path, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [str(toolchain.program("llama-server")), "-m", str(default_gguf), "--host", "127.0.0.1", "--port", str(port)]
    calm = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with (tmp_path / "server.log").open("wb") as log:
        sizes = ["-c", str(512 * _SERVER_SLOTS), "-np", str(_SERVER_SLOTS), "-t", "2"]
        child = subprocess.Popen([*argv, *sizes], env=calm, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.kill()
        child.wait()


def _bare_rate(base_url: str, requests: list[Request], at_once: int) -> float:
    """Return the answers a second of a loop that only posts, so many at once."""

    def post(client: httpx.Client, request: Request) -> None:
        body = {
            "model": "m",
            "messages": [message.model_dump() for message in request.messages],
            "temperature": 0.0,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            **_NO_CACHE,
        }
        client.post(f"{base_url}/chat/completions", json=body).raise_for_status()

    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(at_once) as pool:
        began = time.perf_counter()
        list(pool.map(lambda request: post(client, request), requests))
        return len(requests) / (time.perf_counter() - began)


def _edgekiln_rate(base_url: str, requests: list[Request], path: Path, at_once: int = 32, idle_s: float = 0.0) -> float:
    """Return the answers a second of an Asker; `idle_s` is what it does beside asking, after each answer."""
    config = LabelConfig(
        teacher="smollm2-135m-instruct", backend="openai", base_url=base_url, concurrency=at_once, extra_body=_NO_CACHE
    )
    teacher = open_teacher(config, ignore, None)
    done = 0

    def step(change: int) -> None:
        nonlocal done
        done += change
        time.sleep(idle_s)

    with open_ledger(path) as ledger:
        asker = Asker(teacher, ledger, config, Account(config.budget, None, Spent()), ignore)
        began = time.perf_counter()
        asker.ask_all(requests, step)
        taken = time.perf_counter() - began
        answered = ledger.counts()["answered"]
    teacher.close()
    assert done == len(requests) <= answered  # an answer that is cut off is asked for once more
    return answered / taken


@pytest.mark.full
@pytest.mark.model
@pytest.mark.timeout(3600)
def test_the_rate_of_the_best_fixed_concurrency_is_reached(endpoint: str, tmp_path: Path, record_property: Record) -> None:
    numbers = iter(range(1_000_000))

    def fresh() -> list[Request]:
        return [_request(next(numbers)) for _ in range(QUESTIONS)]

    rates = {level: _bare_rate(endpoint, fresh(), level) for level in LEVELS}
    best = max(rates, key=lambda level: rates[level])
    pairs = [
        (_edgekiln_rate(endpoint, fresh(), tmp_path / f"{turn}.sqlite"), _bare_rate(endpoint, fresh(), best))
        for turn in range(5)
    ]
    share = median(ours / bare for ours, bare in pairs)
    broken = _edgekiln_rate(endpoint, fresh(), tmp_path / "broken.sqlite", at_once=1, idle_s=0.2) / median(
        bare for _, bare in pairs
    )
    record_property("bare loop, answers/s by requests at once", {level: round(rate, 2) for level, rate in rates.items()})
    record_property(
        f"edgekiln's rate, share of the bare loop's with {best} at once, at least {SHARE_OF_BARE}", round(share, 3)
    )
    record_property("broken on purpose: one request at once, and 0.2 s idle after each, share", round(broken, 3))
    limit = [Limit(metric="share", op=">=", value=SHARE_OF_BARE)]
    assert judge(limit, {"share": share}).passed
    assert not judge(limit, {"share": broken}).passed
