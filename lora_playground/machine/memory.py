"""Total and free memory of this machine, and the peak memory of this process.

Only functions about torch's own memory import torch.
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
    """Free bytes of a device's memory: 'cpu' or a CUDA device."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def available_to_torch() -> int:
    """Bytes of the GPU's memory that this process can use: what is free, and what torch has reserved already."""
    import torch

    return free("cuda") + int(torch.cuda.memory_reserved())


def peak(device: str | None = None) -> int:
    """Peak memory in bytes: on CUDA what torch has allocated, else this process's largest resident set.

    Args:
        device: 'cpu' or a CUDA device; None for CUDA if it is available.
    """
    import torch

    if device.startswith("cuda") if device else torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated(device))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # psutil knows no peak on Linux
    return largest if sys.platform == "darwin" else largest * 1024


def reset_peak() -> None:
    """Resets the GPU's peak, since a process can train several runs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def release() -> None:
    """Frees unused memory, also on the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
