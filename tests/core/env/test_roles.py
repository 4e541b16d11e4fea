"""Roles: which a profile uses, and that a name that is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import config
from core.env.roles import EVERY, Role, in_order, roles_of


def test_a_local_device_makes_this_machine_the_bench_host() -> None:
    assert roles_of(config.load("demo")) == {Role.LABELER, Role.TRAINER, Role.EXPORTER, Role.BENCH_HOST}


def test_a_device_over_ssh_is_a_board(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "own.yaml").write_text("kind: ssh\nhost: pi\n", encoding="utf-8")

    roles = roles_of(config.load("demo", {"bench.device": "own"}), tmp_path)

    assert Role.BOARD in roles
    assert Role.BENCH_HOST not in roles


def test_roles_keep_one_order_and_unknown_ones_are_refused() -> None:
    assert in_order(["server", "labeler", "server"]) == (Role.LABELER, Role.SERVER)
    assert in_order(EVERY) == tuple(Role)
    with pytest.raises(ValueError, match="cook"):
        in_order(["cook"])
