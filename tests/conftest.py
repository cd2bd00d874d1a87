"""Settings of the test process, the order of the test files, and which tests are skipped without a GPU."""

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
    """Excludes the objects that imported libraries have made from garbage collection, and collects less often: every
    full collection would walk through them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


LONGEST = (
    "test_programs.py", "test_ray.py", "test_ray_token.py", "test_wheel.py", "test_forks.py", "test_notebook.py",
    "test_loop.py", "test_reproduce.py", "test_strangers.py", "test_contract.py",
)  # fmt: skip
"""The files that take longest. They run first: run last, one could keep a worker busy when the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders files as LONGEST says. Skips tests marked `gpu`, with the reason, if there is no CUDA device; with
    LORA_PLAYGROUND_GPU_DRY_RUN set they run on the CPU."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or os.environ.get("LORA_PLAYGROUND_GPU_DRY_RUN"):
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; there is none here"))
