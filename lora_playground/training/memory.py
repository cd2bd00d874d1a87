"""How much memory the tensors of a step take, and the error message for a full memory. It knows no loop."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lora_playground.training.plan import TrainPlan

_PERIOD = 0.001
"""Seconds between two readings."""


class TensorMeter:
    """The most memory that all tensors took at once during a step, to compare with the estimate.

    The size of the process would not do: it includes Python, libraries, and freed memory that was not given back.

    Attributes:
        bytes: None until a step was measured, and where none can be: on a CPU without glibc, or in a thread other than
            the main one, whose memory the C library does not count.
        earlier: on CUDA the device's peak before that step, since measuring resets torch's count.
    """

    bytes: int | None = None
    earlier: int = 0

    @contextmanager
    def measuring(self, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device) -> Iterator[None]:
        """Measures the step done inside the block: what lasts, and the most that the step adds. On CUDA torch's
        allocator counts; on the CPU the C library is asked every millisecond how many bytes are in use."""
        held = held_bytes(model, optimiser, device)
        if device.type == "cuda":
            resting = torch.cuda.memory_allocated(device)
            self.earlier = torch.cuda.max_memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            yield
            self.bytes = held + torch.cuda.max_memory_allocated(device) - resting
            return
        ask = _in_use()
        if ask is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        seen, done = [ask()], threading.Event()

        def watch() -> None:
            while not done.wait(_PERIOD):
                seen.append(ask())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        self.bytes = held + max(seen) - seen[0]


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _in_use() -> Callable[[], int] | None:
    """A function that gives the bytes allocated from the C library, torch's tensors on a CPU included; None without
    glibc."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    ask.restype = _Mallinfo

    def bytes_() -> int:
        found = ask()
        return int(found.uordblks + found.hblkhd)

    return bytes_


def held_bytes(
    model: nn.Module, optimiser: torch.optim.Optimizer | None = None, device: torch.device | None = None
) -> int:
    """Bytes of all tensors that last between steps, each storage counted once: parameters, buffers, scales of quantised
    weights, the copies that full fine-tuning keeps, the optimiser's state. `device`: only tensors on that device."""
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    for parameter in list(tensors):
        state = getattr(parameter, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            tensors += [getattr(part, name, None) for name in ("absmax", "code", "offset")]
        tensors += [getattr(parameter, name, None) for name in ("CB", "SCB")]
    tensors += list(getattr(model, "_pristine_parameters", {}).values())
    if optimiser is not None:
        tensors += [value for state in optimiser.state.values() for value in state.values()]
    storages = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and (device is None or tensor.device.type == device.type):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def memory_problem(error: BaseException, plan: TrainPlan) -> str | None:
    """The message for an error that means that memory was full, None for any other error.

    Args:
        error: what training raised. plan: its `remedies` are put into the message.

    Returns:
        How much memory was needed, how much there is, and what would help.
    """
    text = str(error)
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not full and "DefaultCPUAllocator" not in text and "out of memory" not in text.lower():
        return None
    have = ""
    if torch.cuda.is_available() and "cpu" not in text.lower():
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        have = f" The device has {total / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free now."
    remedies = plan.remedies or [
        f"lower training.batch_tokens (now {plan.training.batch_tokens}) or raise training.accumulation",
        "turn on training.gradient_checkpointing",
        "store the base in 4 bit, or shorten data.max_length",
    ]
    return f"The memory is full: {_need(text)}.{have} Try one of these: {'; '.join(remedies)}."


def _need(text: str) -> str:
    """The error's first line, up to the size that could not be allocated."""
    first = next(iter(text.splitlines()), "")
    asked = re.match(r".*?[Tt]ried to allocate [\d.,]+ \w+", first)
    return (asked[0] if asked else first[:160]).rstrip(". ") or "an allocation failed"
