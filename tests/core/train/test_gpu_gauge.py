"""How busy a GPU is, from a child that loads a real shared library that answers as NVML does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.core.env.stand_ins import A4090, build_nvml, play

BUSY = f"gpus 2\n{A4090}1.name Tesla P40\n1.bus 00000000:41:00.0\n1.busy 93\n1.power 181500\n1.temperature 71\n0.busy 4\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_nvml(tmp_path_factory.mktemp("nvml"))


def read(bus_id: str | None) -> dict[str, float]:
    program = f"import json; from core.train.gpu_gauge import GpuGauge; print(json.dumps(GpuGauge({bus_id!r}).read()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_gpu_on_the_trainings_bus_address_is_read_whatever_its_number(library, tmp_path, monkeypatch):
    play(BUSY, library, tmp_path, monkeypatch)
    told = {"gpu_utilisation": 0.93, "gpu_power_w": 181.5, "gpu_temperature_c": 71.0}
    assert read("00000000:41:00.0") == told
    assert read("00000000:01:00.0") == {"gpu_utilisation": 0.04}  # what it does not tell is left out
    assert read("00000000:99:00.0") == {}


@pytest.mark.parametrize("script", ["init 9\n", "gpus 0\n"])
def test_a_driver_that_does_not_work_is_no_reading(script, library, tmp_path, monkeypatch):
    play(script, library, tmp_path, monkeypatch)
    assert read("00000000:01:00.0") == {}
    assert read(None) == {}
