"""C3A's updates from their file: blocks in which every row is the one above it, shifted by one. Plain NumPy."""

from collections.abc import Mapping

import numpy as np

from lora_playground.errors import AdapterError

MOST = 2**28
"""The most entries of an update that is formed: otherwise a small file could demand any amount of memory."""


def shape_of(module: str, shapes: Mapping[str, tuple[int, ...]], rank: int) -> tuple[tuple[int, int], int]:
    """((out, in), the highest possible rank) of a module's update; raises AdapterError if the shapes are not C3A's."""
    kernel = shapes.get("c3a_kernel", ())
    out, into = (kernel[0] * kernel[2], kernel[1] * kernel[2]) if len(kernel) == 3 else (0, 0)
    if not 0 < out * into <= MOST:
        raise AdapterError(
            f"{module}: c3a_kernel is {kernel}; it must be (out/b, in/b, b), with at most {MOST:,} entries of ΔW."
        )
    return (out, into), min(out, into)


def update_of(rows: np.ndarray) -> np.ndarray:
    """ΔW (k·b, l·b) from the first rows (k, l, b) of its blocks: entry (i, j) of a block is w[(j − i) mod b] / (l·b).

    Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, 2024, section 3; divided by the number of
    inputs, as PEFT does.
    """
    down, across, b = rows.shape
    places = (np.arange(b)[None, :] - np.arange(b)[:, None]) % b
    blocks = rows[:, :, places] / np.float32(across * b)
    return blocks.transpose(0, 2, 1, 3).reshape(down * b, across * b)
