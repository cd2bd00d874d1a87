"""What this machine computes with, and how full that device's memory is. No torch: the web process asks."""

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
"""Seconds for which an answer is used again; all browsers together ask the system once in that time."""


@dataclass(frozen=True)
class Device:
    """A device's kind and name, and its memory in bytes (0 where unknown)."""

    kind: Literal["cpu", "cuda"]
    name: str
    used: int
    total: int


_lock = threading.Lock()
_known: tuple[float, Device] | None = None


def device() -> Device:
    """The first GPU that CUDA may use, or else the processor with the main memory."""
    global _known
    with _lock:
        if _known is None or time.monotonic() - _known[0] > FRESH:
            _known = (time.monotonic(), _gpu() or _processor())
        return _known[1]


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpu() -> Device | None:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None  # no driver
    try:
        if first.startswith(("GPU-", "MIG-")):
            handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        else:
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Device("cuda", str(pynvml.nvmlDeviceGetName(handle)), int(memory.used), int(memory.total))
    except (pynvml.NVMLError, ValueError, OverflowError):
        return None  # an empty CUDA_VISIBLE_DEVICES, or -1, hides every GPU
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _processor() -> Device:
    memory, count = psutil.virtual_memory(), cores()
    return Device(
        "cpu", f"CPU, {count} core{'s' if count != 1 else ''}", int(memory.total - memory.available), int(memory.total)
    )
