"""How much memory a run has taken, and what to tell a person when there was too little. It knows no loop."""

from __future__ import annotations

import resource
import sys

import torch

from lora_playground.training.plan import TrainPlan


def peak_memory(device: torch.device) -> int:
    """Bytes: on CUDA the most that torch allocated, else the largest resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_problem(error: BaseException, plan: TrainPlan) -> str | None:
    """Need, have and remedies if the memory was full, else None."""
    text = str(error)
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not full and "DefaultCPUAllocator" not in text and "out of memory" not in text.lower():
        return None
    have = ""
    if torch.cuda.is_available() and "cpu" not in text.lower():
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        have = f" The device has {total / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free now."
    need = text.splitlines()[0][:160] if text else "an allocation failed"
    if plan.remedies:
        return f"The memory is full: {need}.{have} Try one of these: {'; '.join(plan.remedies)}."
    batch = plan.training.batch_tokens
    advice = [f"lower training.batch_tokens (now {batch}) or raise training.accumulation"]
    if not plan.training.gradient_checkpointing:
        advice.append("turn on training.gradient_checkpointing")
    advice.append("store the base in 4 bit, or shorten data.max_length")
    return f"The memory is full: {need}.{have} Try one of these: {'; '.join(advice)}."
