"""The teacher in this process against llama-cpp-python's own chat completions one by one: same prompts, same run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from core.config import LabelConfig
from core.contract import Limit, judge
from core.data.record import Message
from core.events import ignore
from core.label import gguf_model, in_process
from core.label.request import Reply, Request

pytestmark = [pytest.mark.full, pytest.mark.model, pytest.mark.timeout(1800)]
Record = Callable[[str, object], None]

TIMES = 1.5
ROUNDS = 3
ANSWER_TOKENS = LabelConfig(teacher="any").max_tokens
SYSTEM = (
    "You answer questions about Python's standard library for people who begin to program. Answer in one or two plain"
    " sentences. Give no code. Name the module that a function lives in. Say so when you do not know. Do not repeat the"
    " question, do not greet, and do not end with an offer to help."
)
NAMES = (
    "os.path.basename bisect.bisect_left json.dumps zip itertools.chain functools.lru_cache sys.argv shutil.copyfile"
    " re.compile collections.deque heapq.heappush pathlib.Path.glob random.choice math.gcd time.sleep csv.reader"
    " struct.pack zlib.crc32 textwrap.wrap statistics.median difflib.ndiff getpass.getpass socket.bind queue.Queue"
)


def requests() -> list[Request]:
    return [
        Request(
            teacher="t",
            messages=(Message(role="system", content=SYSTEM), Message(role="user", content=f"What does `{name}` do?")),
            temperature=0.0,
            max_tokens=ANSWER_TOKENS,
            seed=1,
        )
        for name in NAMES.split()
    ]


@pytest.fixture(scope="module")
def one_by_one(toolchain, default_gguf: Path) -> Iterator[Callable[[], None]]:
    in_process.load(default_gguf, ignore).close()  # so that llama_cpp is imported on the toolchain's libraries
    import llama_cpp

    threads = len(os.sched_getaffinity(0))
    model = llama_cpp.Llama(
        str(default_gguf), n_ctx=8192, n_threads=threads, n_threads_batch=threads, n_gpu_layers=-1, verbose=False
    )

    def ask() -> None:
        for request in requests():
            messages = [message.for_template() for message in request.messages]
            model.reset()
            model.create_chat_completion(messages=messages, temperature=0.0, max_tokens=ANSWER_TOKENS, repeat_penalty=1.0)

    yield ask
    model.close()


@pytest.fixture(scope="module")
def several(toolchain, default_gguf: Path) -> Iterator[Callable[[int], Callable[[], None]]]:
    opened = []

    def make(sequences: int) -> Callable[[], None]:
        teacher = in_process.LlamaTeacher(gguf_model.load(default_gguf, ignore), sequences)
        opened.append(teacher)

        def ask() -> None:
            for _, outcome in teacher.answer(requests()):
                assert isinstance(outcome, Reply)

        return ask

    yield make
    for teacher in opened:
        teacher.close()


def seconds(ask: Callable[[], None]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def test_several_prompts_decode_together_faster_than_one_by_one(one_by_one, several, record_property: Record) -> None:
    ways = {"one by one": one_by_one, "together": several(in_process.SEQUENCES), "one sequence": several(1)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, ask in ways.items():
            taken[name].append(seconds(ask))
    times = {name: median(taken["one by one"]) / median(each) for name, each in taken.items()}
    record_property(
        f"in process, {len(requests())} prompts one by one, median of {ROUNDS} [s]", round(median(taken["one by one"]), 1)
    )
    record_property(f"the same together, times as fast, limit {TIMES}", round(times["together"], 2))
    limit = Limit(metric="times", op=">=", value=TIMES)
    assert judge([limit], {"times": times["together"]}).passed
    record_property("broken on purpose: one sequence [times as fast]", round(times["one sequence"], 2))
    assert not judge([limit], {"times": times["one sequence"]}).passed
