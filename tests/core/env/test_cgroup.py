"""Limits of the control group: parsers on recorded texts, and whole trees laid out as the kernel lays them."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.env import cgroup


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("2147483648\n", 2 << 30), ("9223372036854771712\n", None), ("", None), ("x", None)],
)
def test_no_limit_is_told_from_a_limit(text: str, limit: int | None) -> None:
    assert cgroup.parse_memory(text) == limit


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("-1 100000", None), ("1 0", None), ("", None)]
)
def test_a_quota_is_read_in_processors(text: str, quota: float | None) -> None:
    assert cgroup.parse_quota(text) == quota


def test_the_tightest_limit_above_a_version_2_group_counts(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    write(membership, "0::/outer/inner\n")
    write(tmp_path / "tree/outer/memory.max", "1000000\n")
    write(tmp_path / "tree/outer/inner/memory.max", "max\n")
    write(tmp_path / "tree/outer/cpu.max", "200000 100000\n")
    write(tmp_path / "tree/outer/inner/cpu.max", "50000 100000\n")

    assert cgroup.memory_limit_bytes(tmp_path / "tree", membership) == 1_000_000
    assert cgroup.cpu_limit(tmp_path / "tree", membership) == 0.5


def test_a_version_1_group_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    write(membership, "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n")
    write(tmp_path / "tree/memory/box/memory.limit_in_bytes", "3000000\n")
    write(tmp_path / "tree/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "tree/cpu/box/cpu.cfs_quota_us", "300000\n")
    write(tmp_path / "tree/cpu/box/cpu.cfs_period_us", "100000\n")

    assert cgroup.memory_limit_bytes(tmp_path / "tree", membership) == 3_000_000
    assert cgroup.cpu_limit(tmp_path / "tree", membership) == 3.0


def test_a_container_that_sees_only_the_root_reads_its_limit_there(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    write(membership, "0::/not/visible/from/inside\n")
    write(tmp_path / "tree/memory.max", "4000000\n")

    assert cgroup.memory_limit_bytes(tmp_path / "tree", membership) == 4_000_000


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert cgroup.memory_limit_bytes(tmp_path / "none", tmp_path / "none") is None
    assert cgroup.cpu_limit(tmp_path / "none", tmp_path / "none") is None
