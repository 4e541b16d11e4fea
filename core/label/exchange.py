"""Answers of other machines taken in before anything is asked, and this machine's sent to the store while it asks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from core.contract import Stage
from core.errors import ArtifactError, EdgekilnError
from core.events import Note, OnEvent, SetAside
from core.files import write_atomic
from core.label.ledger_exchange import Exchange, open_exchange
from core.label.segment import MAX_BYTES, MAX_ROWS, full_ones, name_of, read
from core.remote.segments import fetch_segment, put_segment, segments
from core.remote.store import Store
from core.workspace import Workspace

BELOW = "ledger/label"
_LAST_S = 20.0  # for what is unsent when the asking ends; what is not sent by then goes with the next job


@contextmanager
def exchanged(workspace: Workspace, sync_s: float, on_event: OnEvent) -> Iterator[None]:
    """Merge what other machines know into the ledger, which is open, then send what is answered in the block.

    RemoteFailed when the store cannot be read: what is asked then might be paid for twice. While it cannot be written the
    asking goes on; an answer waits `sync_s` seconds at most otherwise. Without a second home the block is all.
    """
    if workspace.home is None:
        yield
        return
    store = workspace.home.store
    with open_exchange(workspace.ledger("label")) as exchange:
        merge_all(exchange, store, workspace, on_event)
        sending = Sending(exchange, store, sync_s, on_event)
        try:
            yield
        finally:
            sending.close()


def fetch_labelled(workspace: Workspace, identity: str) -> None:
    """Fetch a labelling that another machine ended, well or not, where none lies here."""
    here = workspace.folder(Stage.LABEL, identity[:12]).exists()
    if workspace.home is not None and Stage.LABEL not in workspace.force and not here:
        workspace.home.fetch(Stage.LABEL, identity)


def guarded(step: Callable[[int], None], workspace: Workspace) -> Callable[[int], None]:
    """Return a step that raises RemoteLockLost once another machine took the workspace, and would pay for the same answers."""

    def checked(change: int) -> None:
        if workspace.home:
            workspace.home.check()
        step(change)

    return checked


def merge_all(exchange: Exchange, store: Store, workspace: Workspace, on_event: OnEvent) -> int:
    """Merge every segment that is not known here, and return how many answers were news; a broken one is set aside."""
    known, news = exchange.begin(store.where), 0
    names = [each.name.rpartition("/")[2] for each in segments(store, BELOW)]
    for name, got in _fetched(store, [name for name in names if name not in known]):
        try:
            answers = read(name, _whole(got))
        except ArtifactError as error:
            _set_aside(workspace, name, got, error, on_event)
        else:
            news += exchange.merge(name, answers)
    if news:
        text = f"{news} answers were merged from {store.where}; none of them is asked again"
        on_event(Note(stage=Stage.LABEL, text=text))
    return news


def _fetched(store: Store, names: Sequence[str]) -> Iterator[tuple[str, bytes | ArtifactError]]:
    """Yield each segment as it lies there, or why it cannot be had; a few at a time, so that memory stays bounded."""

    def fetch(name: str) -> bytes | ArtifactError:
        try:
            return fetch_segment(store, f"{BELOW}/{name}", MAX_BYTES)
        except ArtifactError as error:
            return error

    threads = store.config.threads
    with ThreadPoolExecutor(threads, thread_name_prefix="segments") as pool:
        for start in range(0, len(names), threads):
            some = names[start : start + threads]
            yield from zip(some, pool.map(fetch, some), strict=True)


def _whole(got: bytes | ArtifactError) -> bytes:
    if isinstance(got, ArtifactError):
        raise got
    return got


def _set_aside(
    workspace: Workspace, name: str, got: bytes | ArtifactError, error: ArtifactError, on_event: OnEvent
) -> None:
    """Keep a broken segment for a look, where its bytes could be had, and tell of it."""
    place = f"{BELOW}/{name} in the store"
    if isinstance(got, bytes):
        path = workspace.root / "quarantine" / f"ledger-segment-{name_of(got)[:12]}"
        write_atomic(path, got)
        place = str(path)
    told = SetAside(stage=Stage.LABEL, artifact_id=f"ledger segment {name[:12]}", reason=error.problem, moved_to=place)
    on_event(told)


class Sending:
    """Sends unsent answers from a thread of its own; what goes wrong is told once, and tried again as long as it runs."""

    def __init__(self, exchange: Exchange, store: Store, sync_s: float, on_event: OnEvent) -> None:
        self._exchange, self._store, self._sync_s, self._on_event = exchange, store, sync_s, on_event
        self._ended = threading.Event()
        self._left = False
        self._told = ""
        self._thread = threading.Thread(target=self._work, name="ledger-segments", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the last ones, as far as the store takes them soon."""
        self._ended.set()
        self._thread.join(_LAST_S)
        if self._thread.is_alive():
            self._left = True
            self._tell("the last answers are not in the store yet", "they go with the next job of this workspace")

    def _work(self) -> None:
        took_s = 0.0
        while not self._ended.wait(max(self._sync_s / 2, self._sync_s - took_s)):
            began = time.perf_counter()
            self._send()
            took_s = time.perf_counter() - began
        self._send()

    def _send(self) -> None:
        """Send everything that is unsent, in segments."""
        try:
            while unsent := self._exchange.unsent(MAX_ROWS):
                for segment, answers in full_ones(unsent):
                    put_segment(self._store, f"{BELOW}/{name_of(segment)}", segment)
                    self._exchange.sent(name_of(segment), answers)
        except EdgekilnError as error:
            self._fail(error)
        else:
            self._told = ""

    def _fail(self, error: EdgekilnError) -> None:
        if error.code != self._told and not self._left:
            self._told = error.code
            self._tell(f"answers are sent later, the asking goes on: {error.problem}", error.remedy)

    def _tell(self, text: str, remedy: str) -> None:
        with contextlib.suppress(EdgekilnError, OSError):  # a sink that fails must not end the sending
            self._on_event(Note(stage=Stage.LABEL, text=f"{text}. {remedy}", level="warning"))
