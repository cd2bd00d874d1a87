"""The linear algebra of factors against dense NumPy."""

import numpy as np
import pytest

from lora_playground.federated.core import compress, difference, norm, singular_values, sketch_svd, stack, svd

RNG = np.random.default_rng(0)


def pair(m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.standard_normal((m, k)), RNG.standard_normal((k, n))


@pytest.mark.parametrize("shape", [(30, 4, 50), (5, 12, 40), (40, 12, 5), (6, 20, 6)])
def test_svd_of_the_core_is_the_dense_one(shape: tuple[int, int, int]) -> None:
    B, A = pair(*shape)
    U, sigma, Vt = svd((B, A))
    expected = np.linalg.svd(B @ A, compute_uv=False)[: sigma.size]
    assert np.allclose(sigma, expected, rtol=0, atol=1e-12 * expected[0])
    assert np.allclose(singular_values((B, A)), expected, rtol=0, atol=1e-12 * expected[0])
    assert np.allclose((U * sigma) @ Vt, B @ A)
    assert np.allclose(U.T @ U, np.eye(sigma.size)) and np.allclose(Vt @ Vt.T, np.eye(sigma.size))


def test_norm_survives_cancellation() -> None:
    """A difference of 1e-9 relative is seen; tr(BᵀB·AAᵀ) would lose it."""
    B, A = pair(30, 4, 50)
    small = 1e-9 * RNG.standard_normal(B.shape)
    got = norm(difference((B + small, A), (B, A)))
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


def test_sketch_finds_the_leading_triples() -> None:
    U, _ = np.linalg.qr(RNG.standard_normal((60, 20)))
    V, _ = np.linalg.qr(RNG.standard_normal((50, 20)))
    sigma = 0.5 ** np.arange(20)
    got = sketch_svd((U * sigma) @ V.T, 5, np.random.default_rng(1))
    assert np.allclose(got[1], sigma[:5], rtol=1e-6)
    best = (U[:, :5] * sigma[:5]) @ V[:, :5].T
    assert np.allclose((got[0] * got[1]) @ got[2], best, atol=1e-6)
