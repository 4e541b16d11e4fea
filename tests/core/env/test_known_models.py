"""The ranking of known models: from cards, from files that lie here, and from a hub that is a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core import catalogue, config
from core.env import hub_models
from core.env.fit import Room
from core.env.hub_models import HubRequest
from core.env.known_models import rank_known
from core.env.model_ranking import Candidate, Places, candidate_of, rank
from tests.core.env.test_student import CONFIG

GIB = 1 << 30
DEMO = config.load("demo")
BESIDE = config.find_profile("demo").parent
CARDS = [candidate_of(catalogue.model(name)) for name in catalogue.names("models")]
MODELS = [
    {"id": "edge/small", "downloads": 9, "safetensors": {"parameters": {"BF16": 1000}, "total": 1000}, "gated": False},
    {"id": "edge/vast", "downloads": 8, "safetensors": {"parameters": {}, "total": 10**12}, "gated": False},
    {"id": "edge/asks-first", "downloads": 7, "safetensors": {"parameters": {}, "total": 1000}, "gated": "manual"},
    {"id": "edge/untold", "downloads": 6, "gated": False},
    {"id": "Qwen/Qwen3-0.6B", "downloads": 5, "safetensors": {"parameters": {}, "total": 1000}, "gated": False},
]


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        listing = self.path.startswith("/api/models?")
        body = json.dumps(MODELS if listing else CONFIG).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    try:
        yield url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def places(training_gib: float | None, board_gib: float | None) -> Places:
    room = None if training_gib is None else Room("cuda", "a GPU", int(training_gib * GIB), None, 2)
    return Places(room, 64 * GIB, None if board_gib is None else int(board_gib * GIB), "a board")


def test_what_fits_comes_first_and_the_larger_before_the_smaller():
    ranked = rank(CARDS, DEMO, places(16, 1))
    answers = [each.fits for each in ranked]
    assert answers == sorted(answers, key=lambda fits: {True: 0, None: 1, False: 2}[fits])
    fitting = [each.candidate.parameters for each in ranked if each.fits]
    assert fitting == sorted(fitting, reverse=True)
    by_name = {each.candidate.name: each for each in ranked}
    assert by_name["smollm2-135m-instruct"].fits
    assert by_name["smollm2-135m-instruct"].board_kind == "Q8_0"
    assert by_name["qwen2.5-1.5b-instruct"].fits is False  # 1.5 GB in its smallest type on a board with 1 GiB
    assert by_name["qwen3-8b"].inference_bytes is None  # it lives behind an endpoint


def test_a_smaller_type_is_taken_where_the_best_does_not_fit_the_board():
    (best,) = (each for each in rank(CARDS, DEMO, places(64, 1.2)) if each.candidate.name == "tinyllama-1.1b-chat")
    assert best.fits
    assert best.board_kind in {"Q4_K_M", "Q4_0"}


def test_what_is_not_known_is_said_to_be_not_known():
    stranger = Candidate(name="x", roles=("student",), parameters=None, shape=None, remote=False, source="hub")
    assert rank([stranger], DEMO, places(16, 16))[0].fits is None
    here = [each for each in rank(CARDS, DEMO, places(None, None)) if "student" in each.candidate.roles]
    assert {(each.fits, each.training_bytes, each.board_kind) for each in here} == {(None, None, None)}


def test_the_hub_s_small_open_models_are_ranked_beside_the_cards(hub):
    ranking = rank_known(DEMO, BESIDE, hub=True)
    offered = [each.candidate for each in ranking.models if each.candidate.source == "hub"]
    assert [(each.name, each.parameters) for each in offered] == [("edge/small", 1000)]
    assert offered[0].shape is not None
    assert offered[0].shape.hidden_size == 64
    assert not [note for note in ranking.notes if "hub" in note]


def test_models_too_large_gated_or_untold_are_passed_over(hub, tmp_path, monkeypatch):
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    request = HubRequest(each=8, most_parameters=4_000_000_000, families=("llama", "qwen3"))
    reading = hub_models.ask(HfApi(endpoint=hub), request)
    assert reading.endpoint == hub
    assert [offer.repo for offer in reading.offers] == ["edge/small", "Qwen/Qwen3-0.6B"]


def test_a_hub_that_cannot_be_reached_is_a_note_and_the_cards_are_ranked(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    ranking = rank_known(DEMO, BESIDE, hub=True)
    assert len(ranking.models) == len(CARDS)
    assert any("hub could not be asked: ConnectError" in note for note in ranking.notes)


def test_a_hub_that_is_not_asked_and_a_board_that_is_away_are_notes(tmp_path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "away.yaml").write_text("kind: ssh\nhost: nobody.invalid\n", encoding="utf-8")
    ranking = rank_known(config.load("demo", ["bench.device=away"]), tmp_path, hub=False)
    assert "the Hugging Face hub was not asked" in ranking.notes
    assert any("on away, not known" in note for note in ranking.notes)
