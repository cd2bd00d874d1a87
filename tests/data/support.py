"""Encoded examples for tests that need no words."""

import numpy as np

from lora_playground.data.encoding import Example


def examples(many: int, longest: int, vocabulary: int, seed: int = 0) -> list[Example]:
    """Random examples of half of `longest` to `longest` tokens (the first the longest); half is learned."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(many):
        length = longest if number == 0 else int(rng.integers(longest // 2, longest + 1))
        learned = np.arange(length) >= length // 2
        found.append(Example(rng.integers(5, vocabulary - 5, length).astype(np.int32), learned))
    return found
