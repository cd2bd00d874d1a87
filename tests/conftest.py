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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device, saying so; a dry run takes the CPU for one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("LORA_PLAYGROUND_GPU_DRY_RUN"):
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; there is none here"))
