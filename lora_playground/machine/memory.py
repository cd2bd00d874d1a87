"""How much memory this machine has and has free, and how much this process has taken at most.

Torch is imported only by functions that ask about what it holds.
"""

from __future__ import annotations

import gc
import resource
import sys

import psutil


def total() -> int:
    """Bytes of main memory."""
    return int(psutil.virtual_memory().total)


def free(device: str = "cpu") -> int:
    """Bytes that can still be taken of a device's memory: 'cpu' or a CUDA device."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def available_to_torch() -> int:
    """Bytes of the GPU that this process may use: what is free, and what torch has taken already."""
    import torch

    return free("cuda") + int(torch.cuda.memory_reserved())


def peak(device: str | None = None) -> int:
    """The most memory held so far: on CUDA the bytes that torch has allocated, else this process's largest resident
    set. `device`: 'cpu' or a CUDA device; None means CUDA where it is available."""
    import torch

    if device.startswith("cuda") if device else torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated(device))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # psutil knows no peak on Linux
    return largest if sys.platform == "darwin" else largest * 1024


def reset_peak() -> None:
    """Begins to count the GPU's peak anew, since one process may train several runs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def release() -> None:
    """Gives back what is no longer referred to, on the GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
