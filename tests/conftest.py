"""Shared fixtures: small local checkpoints and a home folder for runs. No network, no GPU."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Test models are tiny: one thread each is fastest, and two pytest workers share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest


def pytest_collection_finish() -> None:
    """Sets aside what importing the libraries has left, which every full collection would walk through again, and
    collects less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


LONGEST = (
    "test_programs.py", "test_ray.py", "test_ray_token.py", "test_wheel.py", "test_forks.py", "test_notebook.py",
    "test_loop.py", "test_reproduce.py", "test_strangers.py", "test_contract.py",
)  # fmt: skip
"""Files that take longest are begun first, or the last of them would keep one worker busy when the other has ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders files as LONGEST says. Skips tests marked `gpu` where there is no CUDA device, saying so; a dry run takes
    the CPU for one."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("LORA_PLAYGROUND_GPU_DRY_RUN"):
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; there is none here"))
