"""The linear algebra of factors against dense NumPy."""

import numpy as np
import pytest

from lora_playground.federated.pairs import compress, norm, stack

RNG = np.random.default_rng(0)


def pair(m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.standard_normal((m, k)), RNG.standard_normal((k, n))


def test_norm_survives_cancellation() -> None:
    """A difference of 1e-9 relative is seen; tr(BᵀB·AAᵀ) would lose it."""
    B, A = pair(30, 4, 50)
    small = 1e-9 * RNG.standard_normal(B.shape)
    got = norm(stack([(B + small, A), (B, A)], [1.0, -1.0]))
    assert got == pytest.approx(np.linalg.norm(small @ A), rel=1e-4)


def test_stack_is_the_weighted_sum() -> None:
    pairs = [pair(8, k, 9) for k in (1, 2, 5)]
    B, A = stack(pairs, [0.2, 0.5, 0.3])
    assert B.shape == (8, 8)
    assert np.allclose(B @ A, sum(w * b @ a for w, (b, a) in zip([0.2, 0.5, 0.3], pairs)))


def test_compress_drops_only_what_is_nothing() -> None:
    B, A = pair(20, 3, 30)
    doubled = np.concatenate([B, B], axis=1), np.concatenate([A, A])
    C, D = compress(doubled)
    assert C.shape == (20, 3)
    assert np.allclose(C @ D, 2 * B @ A)
    zero = compress((np.zeros((20, 3)), A))
    assert zero[0].shape == (20, 1) and not (zero[0] @ zero[1]).any()
