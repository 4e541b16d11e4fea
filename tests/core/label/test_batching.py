"""Which requests are decoded together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.data.record import Message
from core.label.batching import STEP, Pool, padded
from core.label.request import Request


def _request(number: int) -> Request:
    message = Message(role="user", content=str(number))
    return Request(teacher="t", messages=(message,), temperature=0.0, max_tokens=9, seed=1)


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 9))
def test_every_request_is_taken_once_in_batches_of_one_length(tokens: list[int], rows: int) -> None:
    pool, lengths, taken, source = Pool(rows), {}, [], iter(enumerate(tokens))
    ended = False
    while not ended or len(pool):
        room = pool.room
        assert room > 0
        drawn = [pair for _, pair in zip(range(room), source, strict=False)]
        ended = len(drawn) < room
        for number, count in drawn:
            lengths[_request(number).key] = padded(count)
            pool.add(_request(number), padded(count))
        batch = pool.take()
        assert len(batch) <= rows
        assert len({lengths[request.key] for request in batch}) <= 1
        taken += batch
    assert sorted(int(request.messages[0].content) for request in taken) == list(range(len(tokens)))


def test_the_commonest_length_goes_first_and_the_oldest_of_it() -> None:
    pool = Pool(3)
    for number, length in enumerate([64, 32, 64, 32, 32, 32, 96]):
        pool.add(_request(number), length)
    order = [[int(request.messages[0].content) for request in pool.take()] for _ in range(5)]
    assert order == [[1, 3, 4], [0, 2], [5], [6], []]


@given(st.integers(1, 100_000))
def test_a_prompt_is_padded_to_the_next_step(tokens: int) -> None:
    assert tokens <= padded(tokens) < tokens + STEP
    assert padded(tokens) % STEP == 0
