"""Finds which arithmetic is fast on this machine by timing a few small matrix products. It knows no model.

bfloat16 is many times faster than float32 with AMX or CUDA, and many times slower on processors that only emulate it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lora_playground.machine.device import cores

if TYPE_CHECKING:
    import torch

_GAIN = 1.25
"""bfloat16 is chosen, in spite of its rounding, if it is at least this many times faster."""


@dataclass(frozen=True)
class Precision:
    """The result of the probe.

    Attributes:
        device: 'cuda' or 'cpu'.
        dtype: 'float32' or 'bfloat16', of weights and products.
        threads: how many threads one process may use: all usable cores, unless fewer are clearly faster.
        float32_ms, bfloat16_ms: time of the product in milliseconds; 0 if it was not timed.
    """

    device: str
    dtype: str
    threads: int
    float32_ms: float = 0.0
    bfloat16_ms: float = 0.0


def probe(device: str = "auto") -> Precision:
    """Times small products, once per process and device, in a few milliseconds.

    Args:
        device: 'cpu', 'cuda', or 'auto' for CUDA if there is one.
    """
    return _probe(pick_device(device))


def pick_device(device: str = "auto") -> str:
    """The device's name: 'auto' becomes 'cuda' if there is one, else 'cpu'; others, such as 'cuda:1', are unchanged."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_dtype(name: str | torch.dtype | None, device: str = "auto") -> torch.dtype:
    """The dtype of a name ('float32', 'bfloat16'); None or 'auto' takes the probe's choice for the device."""
    import torch

    if isinstance(name, torch.dtype):
        return name
    chosen = probe(device).dtype if name in (None, "auto") else name
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[str(chosen)]


@lru_cache(maxsize=8)
def _probe(device: str) -> Precision:
    import torch

    count = cores()
    if device.startswith("cuda"):
        dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        return Precision(device, dtype, min(count, 8))
    before = torch.get_num_threads()
    try:
        # One thread, and its processor time: beside a training run, elapsed time would decide by chance.
        torch.set_num_threads(1)
        # The first product is so small that even an emulated bfloat16 takes under a millisecond; the second is only
        # tried where the first is not hopeless, since AMX needs some size to show its speed.
        fast, slow = _product(64, torch.bfloat16), _product(64, torch.float32)
        if fast < 4 * slow:
            fast, slow = _product(512, torch.bfloat16), _product(512, torch.float32)
        threads = _threads(count)
    finally:
        torch.set_num_threads(before)
    dtype = "bfloat16" if fast * _GAIN < slow else "float32"
    return Precision(device, dtype, threads, round(slow * 1e3, 4), round(fast * 1e3, 4))


def bounded(cores: int) -> int:
    """The number of cores, or OMP_NUM_THREADS if that is less: on shared machines it is set because threads that wait
    for each other on busy cores slow everything down."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


def _threads(cores: int) -> int:
    """All cores on small machines, so that a busy moment cannot change it (the count decides how sums are rounded);
    on larger ones fewer, if that is clearly faster: two hyperthreads of one core gain nothing."""
    import torch

    cores = bounded(cores)
    if cores <= 4:
        return cores
    best, time_of_best = cores, float("inf")
    for count in (cores, cores // 2, cores // 4):
        torch.set_num_threads(count)
        taken = _product(512, torch.float32)
        if taken < 0.85 * time_of_best:
            best, time_of_best = count, taken
    return best


def _product(rows: int, dtype: torch.dtype) -> float:
    """Seconds of a (rows, 256)·(256, 256) product, the best of five. With one thread it is the processor time, which
    other programs cannot lengthen; with more it is the time on the clock."""
    import torch

    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    left, right = torch.ones(rows, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    torch.nn.functional.linear(left, right)
    best = float("inf")
    for _ in range(5):
        start = clock()
        torch.nn.functional.linear(left, right)
        best = min(best, clock() - start)
    return best
