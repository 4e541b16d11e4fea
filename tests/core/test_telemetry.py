"""The sampler reads recorded /proc and /sys trees, and never disturbs what it watches."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.telemetry import Sample, Sampler, append_samples, read_sample, read_samples, summarise

MEMINFO = "MemTotal:        8245432 kB\nMemFree:          300000 kB\nMemAvailable:    6291456 kB\n"


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """A Raspberry Pi 5 as its kernel shows it; hwmon0 is the power chip, not the CPU."""
    root = tmp_path / "pi"
    put(
        root,
        **{
            "proc/loadavg": "3.52 1.20 0.44 5/187 2201",
            "proc/meminfo": MEMINFO,
            "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00",
            "sys/class/hwmon/hwmon0/name": "rp1_adc",
            "sys/class/hwmon/hwmon0/temp1_input": "90000",
            "sys/class/hwmon/hwmon1/name": "cpu_thermal",
            "sys/class/hwmon/hwmon1/temp1_input": "61850",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "61850",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
            "sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq": "2400000",
            "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "50000",
        },
    )
    return root


def test_a_board_is_read_with_its_sensor_matched_by_name(pi: Path) -> None:
    sample = read_sample(pi)
    assert sample.temperature_c == 61.85
    assert sample.clock_mhz == 2400
    assert sample.load_1min == 3.52
    assert sample.available_ram_bytes == 6291456 * 1024
    assert sample.throttled_bits == 0x50000
    assert sample.governor == "ondemand"


def test_a_desktop_without_cpufreq_tells_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    put(
        tmp_path,
        **{
            "proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2596.124\nprocessor\t: 1\ncpu MHz\t\t: 3100.5",
            "sys/class/hwmon/hwmon3/name": "k10temp",
            "sys/class/hwmon/hwmon3/temp1_input": "48125",
            "sys/class/hwmon/hwmon3/temp3_input": "51000",
        },
    )
    sample = read_sample(tmp_path)
    assert (sample.clock_mhz, sample.temperature_c, sample.throttled_bits) == (3100.5, 51.0, None)


def test_a_thermal_zone_serves_where_no_sensor_has_a_known_name(pi: Path) -> None:
    put(pi, **{"sys/class/hwmon/hwmon1/name": "nvme", "sys/class/thermal/thermal_zone0/temp": "70100"})
    assert read_sample(pi).temperature_c == 70.1


def test_a_machine_that_tells_nothing_gives_nothing(tmp_path: Path) -> None:
    assert read_sample(tmp_path).model_dump(exclude={"at"}) == dict.fromkeys(set(Sample.model_fields) - {"at"})
    put(tmp_path, **{"proc/loadavg": "", "proc/meminfo": "MemAvailable: lots", "proc/cpuinfo": "cpu MHz : fast"})
    assert read_sample(tmp_path).load_1min is None


def test_this_machine_is_sampled_from_start_to_end(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.jsonl"
    with Sampler(path, interval_s=0.05) as sampler:
        time.sleep(0.22)
    samples = read_samples(path)
    assert 4 <= len(samples) <= 7
    assert samples == sorted(samples, key=lambda sample: sample.at)
    assert sampler.summary() == summarise(samples)
    assert sampler.summary().max_load_1min is not None


def test_a_file_that_cannot_be_written_does_not_disturb(tmp_path: Path) -> None:
    with Sampler(tmp_path / "missing" / "telemetry.jsonl", interval_s=0.01) as sampler:
        time.sleep(0.03)
    assert sampler.summary().samples >= 2


def test_an_error_of_the_work_passes_through_and_the_thread_ends(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the work"), Sampler(tmp_path / "t.jsonl", interval_s=0.01):
        raise RuntimeError("the work")
    count = len(read_samples(tmp_path / "t.jsonl"))
    time.sleep(0.05)
    assert len(read_samples(tmp_path / "t.jsonl")) == count


def test_the_summary_takes_the_worst_of_each(pi: Path) -> None:
    cool = read_sample(pi)
    hot = cool.model_copy(update={"temperature_c": 84.0, "clock_mhz": 1500.0, "available_ram_bytes": 1})
    summary = summarise([cool, hot, Sample(at=cool.at)])
    assert (summary.max_temperature_c, summary.min_clock_mhz, summary.min_available_ram_bytes) == (84.0, 1500.0, 1)
    assert summary.samples == 3


@pytest.mark.parametrize(
    ("bits", "throttled"),
    [
        ([None, None], None),
        ([0x0, 0x0], False),
        ([0x50000, 0x50000], False),  # it happened before this benchmark
        ([0x0, 0x40000], True),  # since-boot bit newly set: between two looks
        ([0x50000, 0x50004, 0x50000], True),  # throttled while looked at
        ([0x0, 0x1, 0x10000], False),  # under-voltage alone slows nothing down
    ],
)
def test_throttling_counts_only_when_it_happened_meanwhile(
    pi: Path, bits: list[int | None], throttled: bool | None
) -> None:
    base = read_sample(pi)
    samples = [base.model_copy(update={"throttled_bits": value}) for value in bits]
    assert summarise(samples).throttled is throttled


def test_a_line_that_a_kill_cut_short_is_left_out(pi: Path, tmp_path: Path) -> None:
    path = tmp_path / "telemetry.jsonl"
    append_samples(path, [read_sample(pi)])
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"at": "2026-')
    assert len(read_samples(path)) == 1
    assert read_samples(tmp_path / "none.jsonl") == []
