"""Vector code gives what NumPy gives in float64, whatever the sizes."""

from typing import Any

import numpy as np
import pytest

kernel = pytest.importorskip("lora_playground.models.kernel")


@pytest.fixture
def parts() -> tuple[Any, Any, Any, Any]:
    """M (9, 80), x (80,), w (9,) and y (9,) full of what must not be read."""
    noise = np.random.default_rng(0)
    M, x, w = (noise.normal(size=shape).astype(np.float32) for shape in ((9, 80), 80, 9))
    return M, x, w, np.full(9, 7, np.float32)


@pytest.mark.parametrize("n", [2, 8, 32, 44, 77])
def test_rows_with_a_vector_and_with_weights(parts: tuple[Any, Any, Any, Any], n: int) -> None:
    M, x, w, y = parts
    kernel.dotted(M[:, :n], 2, 8, x[:n], y)
    np.testing.assert_allclose(y[2:8], M[2:8, :n].astype(float) @ x[:n], rtol=1e-5, atol=1e-5)
    assert (y[[0, 1, 8]] == 7).all(), "rows that were not asked for"
    sums = np.full(n, 7, np.float32)
    kernel.mixed(M[:, :n], 2, 8, w, sums)
    np.testing.assert_allclose(sums, w[2:8].astype(float) @ M[2:8, :n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [6, 32, 40])
def test_attention(size: int) -> None:
    noise = np.random.default_rng(size)
    q, keys, values = (noise.normal(size=(rows, size)).astype(np.float32) for rows in (2, 20, 20))
    out, scale = np.zeros((2, size), np.float32), np.float32(size**-0.5)
    kernel.attended(q, keys, values, 3, 17, scale, np.zeros(20, np.float32), out)
    scores = np.exp(q.astype(float) @ keys[3:17].T * scale)
    np.testing.assert_allclose(out, scores / scores.sum(1, keepdims=True) @ values[3:17], rtol=1e-5, atol=1e-6)


def test_swiglu_of_large_numbers_is_finite() -> None:
    gate_up = np.array([[-200, -90, -1, 0, 1, 90, 200, 3, 1, 1, 1, 1, 2, 2, 2, 2]], np.float32)
    s = np.zeros((1, 8), np.float32)
    kernel.gated(gate_up, s, 0, 8)
    gate, up = gate_up[0, :8].astype(float), gate_up[0, 8:]
    np.testing.assert_allclose(s[0], gate / (1 + np.exp(-gate)) * up, rtol=1e-5, atol=1e-6)
