"""What the machine says of its devices and memory, with the GPU's driver replaced."""

from types import SimpleNamespace

import psutil
import pytest

from lora_playground.machine import device as module
from lora_playground.machine import memory

USED, TOTAL = 3 * 2**30, 8 * 2**30


@pytest.fixture
def driver(monkeypatch):
    """An NVIDIA driver with one GPU; gives what it was asked for."""
    asked: list[object] = []
    nvml = module.pynvml

    def by_index(index: int) -> int:
        asked.append(index)
        if index != 0:
            raise nvml.NVMLError(nvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": asked.append,
        "nvmlDeviceGetName": lambda handle: "Some GPU",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=USED, total=TOTAL),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(nvml, name, fake)
    monkeypatch.setattr(module, "_known", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return asked


def test_the_first_gpu_is_told_with_its_memory(driver):
    assert module.device() == module.Device("cuda", "Some GPU", USED, TOTAL)
    module.device()
    assert driver == [0], "asked once for a few seconds"


@pytest.mark.parametrize(("visible", "asked"), [("", []), ("-1", [-1]), ("7,0", [7])])
def test_a_gpu_that_cuda_must_not_use_is_not_told(driver, monkeypatch, visible, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert module.device().kind == "cpu" and driver == asked


def test_gpus_before_the_first_that_is_none_are_told(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7,0")
    assert module.gpus() == [module.Gpu("0", "Some GPU", USED, TOTAL)] and driver == [0, 7]


def test_a_gpu_can_be_named(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc,1")
    assert module.device().kind == "cuda" and driver[0] == "GPU-abc"


def test_without_a_gpu_the_processor_is_told(monkeypatch):
    def missing():
        raise module.pynvml.NVMLError(module.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(module.pynvml, "nvmlInit", missing)
    monkeypatch.setattr(module, "_known", None)
    monkeypatch.setattr(module, "cores", lambda: 2)
    memory_now = SimpleNamespace(total=100, available=30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory_now)
    assert module.device() == module.Device("cpu", "CPU, 2 cores", 70, 100)
    assert (memory.total(), memory.free()) == (100, 30)


def test_the_peak_grows_with_what_the_process_takes():
    before, now = memory.peak("cpu"), psutil.Process().memory_info().rss
    assert before >= 0.99 * now
    taken = bytearray(before - now + 100_000_000)  # it writes every page
    assert memory.peak("cpu") >= before + 50_000_000 and taken
