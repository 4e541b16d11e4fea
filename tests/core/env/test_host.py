"""The facts that name a machine."""

from __future__ import annotations

import os
import platform

from core.env.host import fingerprint, read_host, usable_cpus


def test_the_same_machine_has_the_same_fingerprint() -> None:
    first, second = read_host(), read_host()

    assert first == second
    assert len(first.fingerprint) == 16


def test_this_machine_is_read_as_it_is() -> None:
    host = read_host()

    assert host.arch == platform.machine()
    assert 1 <= host.cpus_usable <= (os.cpu_count() or 1)
    assert host.ram_bytes is not None
    assert host.ram_bytes > 1 << 28


def test_another_board_has_another_fingerprint() -> None:
    assert fingerprint(["id-1", "Pi 5"]) != fingerprint(["id-2", "Pi 5"])
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])


def test_a_quota_counts_whole_processors_and_at_least_one() -> None:
    assert usable_cpus(8, None) == 8
    assert usable_cpus(8, 2.9) == 2
    assert usable_cpus(8, 0.5) == 1
    assert usable_cpus(2, 16.0) == 2
