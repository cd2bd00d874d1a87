"""What this machine computes with and how full its memory is, from the system's own files and nvidia-smi; no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FRESH = 4.0
"""Seconds for which an answer is used again; all browsers together ask the system once in that time."""


@dataclass(frozen=True)
class Device:
    """A device's name and its memory in bytes (0 where unknown)."""

    name: str
    used: int
    total: int


_lock = threading.Lock()
_known: tuple[float, Device] | None = None


def device() -> Device:
    """The first GPU, or else the processor with the main memory."""
    global _known
    with _lock:
        if _known is None or time.monotonic() - _known[0] > FRESH:
            _known = (time.monotonic(), _gpu() or _processor())
        return _known[1]


def _gpu() -> Device | None:
    command = shutil.which("nvidia-smi")
    if command is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    query = [command, "--query-gpu=name,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=3, check=True).stdout
        name, used, total = (part.strip() for part in answer.splitlines()[0].split(","))
        return Device(name, int(float(used) * 2**20), int(float(total) * 2**20))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _processor() -> Device:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sizes = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, value = line.partition(":")
            sizes[key] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        sizes = {}
    total = sizes.get("MemTotal", 0)
    return Device(f"CPU, {cores} core{'s' if cores != 1 else ''}", total - sizes.get("MemAvailable", total), total)
