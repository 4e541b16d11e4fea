"""Sends a message to the channels a profile names. A dead channel is told about, never raised, and never waited for long."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any

from core.alerts.message import Message, message_for
from core.config import AlertConfig, secret
from core.errors import ToolMissing
from core.events import Event, Note, OnEvent

Outcomes = queue.SimpleQueue[tuple[str, bool]]


def alert(event: Event, config: AlertConfig, on_event: OnEvent) -> tuple[str, ...]:
    """Tell the profile's channels about a run's last event and return the channels that failed."""
    message = message_for(event)
    return send(message, config, on_event) if message and config.url_envs else ()


def send(message: Message, config: AlertConfig, on_event: OnEvent) -> tuple[str, ...]:
    """Send to every channel at once and return those that failed, named by their variables.

    All channels together get `config.timeout_s`. Each failure is one warning, without the URL: it holds a secret.
    """
    outcomes: Outcomes = queue.SimpleQueue()
    failures: dict[str, str] = {}
    waiting: set[str] = set()
    for name in config.url_envs:
        try:
            channel = open_channel(secret(name))
        except ToolMissing as error:
            failures[name] = error.problem
            continue
        if channel is None:
            failures[name] = "its value is no Apprise URL"
            continue
        waiting.add(name)
        # daemon threads: a channel that hangs must not keep the process from ending
        threading.Thread(
            target=_deliver, args=(name, channel, message, outcomes), name=f"alert-{name}", daemon=True
        ).start()
    failures |= _collect(outcomes, waiting, config.timeout_s)
    for name, why in failures.items():
        on_event(Note(stage=None, level="warning", text=f"no alert went out through {name}: {why}"))
    return tuple(failures)


def open_channel(url: str) -> Any | None:
    """Return the channel an Apprise URL names, None when it is none; nothing is sent."""
    import apprise

    # Apprise writes whole URLs, keys and all, into its log; what matters is told by the caller
    logging.getLogger("apprise").disabled = True
    channel = apprise.Apprise()
    return channel if channel.add(url) else None


def _deliver(name: str, channel: Any, message: Message, outcomes: Outcomes) -> None:
    outcomes.put((name, bool(channel.notify(body=message.body, title=message.title, notify_type=message.kind))))


def _collect(outcomes: Outcomes, waiting: set[str], timeout_s: float) -> dict[str, str]:
    deadline = time.perf_counter() + timeout_s
    failures: dict[str, str] = {}
    while waiting and (left := deadline - time.perf_counter()) > 0:
        try:
            name, delivered = outcomes.get(timeout=left)
        except queue.Empty:
            break
        waiting.discard(name)
        if not delivered:
            failures[name] = "the channel refused it or cannot be reached"
    return failures | dict.fromkeys(sorted(waiting), f"it did not answer within {timeout_s:g} s")
