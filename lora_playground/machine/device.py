"""The device on which this machine computes, and how full its memory is. No torch, since the web process uses it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import Literal

import psutil
import pynvml

FRESH = 4.0
"""Seconds for which an answer is reused, so that many browsers together ask the system only once in that time."""


@dataclass(frozen=True)
class Device:
    """A device's kind and name, and its used and total memory in bytes (0 if unknown)."""

    kind: Literal["cpu", "cuda"]
    name: str
    used: int
    total: int


_lock = threading.Lock()
_known: tuple[float, Device] | None = None


def device() -> Device:
    """The first GPU that CUDA may use, or the processor with the main memory if there is none."""
    global _known
    with _lock:
        if _known is None or time.monotonic() - _known[0] > FRESH:
            first = next(iter(gpus()), None)
            found = Device("cuda", first.product, first.used, first.total) if first else _processor()
            _known = (time.monotonic(), found)
        return _known[1]


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name in CUDA_VISIBLE_DEVICES, its product name, its used and total memory in bytes."""

    name: str
    product: str
    used: int
    total: int


def gpus() -> list[Gpu]:
    """The GPUs that CUDA may use, in its order; [] without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    found: list[Gpu] = []
    try:
        every = ",".join(map(str, range(pynvml.nvmlDeviceGetCount())))
        for name in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(","):
            found.append(_gpu(name.strip()))
        return found
    except (pynvml.NVMLError, ValueError, OverflowError):
        return found  # CUDA stops at the first name that is no GPU; '' and -1 hide all
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(name: str) -> Gpu:
    if name.startswith(("GPU-", "MIG-")):
        handle = pynvml.nvmlDeviceGetHandleByUUID(name)
    else:
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(name))
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(name, str(pynvml.nvmlDeviceGetName(handle)), int(memory.used), int(memory.total))


def _processor() -> Device:
    memory, count = psutil.virtual_memory(), cores()
    return Device(
        "cpu", f"CPU, {count} core{'s' if count != 1 else ''}", int(memory.total - memory.available), int(memory.total)
    )
