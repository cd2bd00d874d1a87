"""Spectra against dense float64 SVD, and cases whose answer is known."""

import numpy as np
import pytest
import torch

from lora_playground.analysis import low_rank
from lora_playground.analysis import spectra as sp
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError

SHAPES = [(64, 96, 4), (96, 64, 16), (32, 32, 1), (20, 48, 30), (8, 6, 12)]


def dense(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Torch's own dense SVD in float64: an implementation that shares nothing with ours."""
    product = torch.from_numpy(np.asarray(B, np.float64)) @ torch.from_numpy(np.asarray(A, np.float64))
    return torch.linalg.svdvals(product).numpy()


def factors(m: int, n: int, r: int, seed: int = 0, decay: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((m, r)) * decay ** np.arange(r)
    return B.astype(np.float32), rng.standard_normal((r, n)).astype(np.float32)


@pytest.mark.parametrize("m, n, r", SHAPES)
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("path", [low_rank.factor_singular_values, low_rank.qr_singular_values])
def test_factored_values_agree_with_dense_svd(m, n, r, decay, path):
    B, A = factors(m, n, r, decay=decay)
    truth = dense(B, A)
    found = path(B, A)
    assert found.shape == (min(m, n, r),)
    assert np.all(np.diff(found) <= 0)
    assert np.abs(found - truth[: found.size]).max() <= 1e-6 * truth[0]


@pytest.mark.parametrize("m, n, r", SHAPES)
def test_factor_svd_rebuilds_the_product(m, n, r):
    B, A = factors(m, n, r)
    U, values, Vt = low_rank.factor_svd(B, A)
    k = min(m, n, r)
    assert U.shape == (m, k) and Vt.shape == (k, n)
    np.testing.assert_allclose(U * values @ Vt, B.astype(np.float64) @ A, atol=1e-10)
    np.testing.assert_allclose(U.T @ U, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(k), atol=1e-12)


def test_an_untrained_adapter_has_a_zero_spectrum():
    B, A = np.zeros((40, 8), np.float32), factors(40, 24, 8)[1]
    assert np.array_equal(low_rank.factor_singular_values(B, A), np.zeros(8))
    assert np.array_equal(low_rank.qr_singular_values(B, A), np.zeros(8))
    assert sp.effective_rank(np.zeros(8)) == sp.stable_rank(np.zeros(8)) == sp.energy_rank(np.zeros(8)) == 0
    assert np.array_equal(sp.energy_captured(np.zeros(8)), np.zeros(8))


def test_nearly_cancelling_factors_take_the_accurate_path():
    # PiSSA's update is B·A − B₀·A₀ with factors a hundred thousand times larger than their difference.
    rng = np.random.default_rng(1)
    B0, A0 = 100 * rng.standard_normal((60, 4)), 100 * rng.standard_normal((4, 50))
    B1 = B0 + 1e-4 * rng.standard_normal(B0.shape)
    B, A = np.hstack([B1, -B0]), np.vstack([A0, A0])
    truth = dense(B1 - B0, A0)
    found = low_rank.factor_singular_values(B, A)
    assert np.abs(found - truth[:8]).max() <= 1e-6 * truth[0]


def test_batched_values_equal_single_ones():
    pairs = [factors(30, 20, 5, seed=s) for s in range(6)]
    B, A = np.stack([p[0] for p in pairs]).reshape(2, 3, 30, 5), np.stack([p[1] for p in pairs]).reshape(2, 3, 5, 20)
    found = low_rank.factor_singular_values(B, A)
    assert found.shape == (2, 3, 5)
    for index, (b, a) in enumerate(pairs):
        np.testing.assert_allclose(found[divmod(index, 3)], low_rank.factor_singular_values(b, a), rtol=1e-12)


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(AdapterError, match="do not fit"):
        low_rank.factor_singular_values(np.zeros((4, 3)), np.zeros((2, 5)))


@pytest.mark.parametrize("shape", [(40, 60), (300, 420), (420, 300)])
def test_dense_updates_are_exact_where_small(shape):
    M = np.random.default_rng(2).standard_normal(shape)
    truth = np.linalg.svd(M, compute_uv=False)
    found = sp.dense_spectrum(M)
    assert found.exact and found.error == 0
    assert np.abs(found.values - truth).max() <= 1e-6 * truth[0]
    assert found.frobenius == pytest.approx(np.linalg.norm(M))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sketch_states_an_error_that_holds(power, dtype):
    rng = np.random.default_rng(3)
    m, n = 260, 340
    U = np.linalg.qr(rng.standard_normal((m, m)))[0]
    V = np.linalg.qr(rng.standard_normal((n, m)))[0]
    sigma = np.arange(1, m + 1, dtype=float) ** -power + 0.01 * rng.random(m)
    M = ((U * sigma) @ V.T).astype(dtype)
    truth = np.linalg.svd(M.astype(np.float64), compute_uv=False)
    found = sp.dense_spectrum(M, values=12, exact_side=100)
    assert not found.exact and found.method == "sketch" and found.values.shape == (12,)
    nearest = np.abs(found.values[:, None] - truth[None, :]).min(axis=1)
    assert nearest.max() <= found.error + 1e-9
    assert found.frobenius == pytest.approx(np.linalg.norm(truth), rel=1e-6)
    if power >= 1:  # a decaying spectrum, which is what updates have, is found well
        assert np.abs(found.values - truth[:12]).max() <= 0.01 * truth[0]


def test_a_sketch_of_a_low_rank_matrix_is_exact():
    B, A = factors(300, 200, 6)
    M = B.astype(np.float64) @ A
    found = sp.sketched_spectrum(M, values=8)
    np.testing.assert_allclose(found.values[:6], dense(B, A)[:6], rtol=1e-10)
    assert found.error < 1e-9 * found.values[0]


def test_numbers_of_known_spectra():
    equal = np.full(5, 3.0)
    assert sp.effective_rank(equal) == pytest.approx(5)
    assert sp.stable_rank(equal) == pytest.approx(5)
    assert sp.energy_rank(equal, 0.9) == 5 and sp.energy_rank(equal, 0.6) == 3
    one = np.array([7.0, 0, 0, 0])
    assert sp.effective_rank(one) == sp.stable_rank(one) == pytest.approx(1)
    assert sp.energy_rank(one) == 1
    # p = (2/3, 1/3): exp of the entropy is 3 / 2^(2/3).
    assert sp.effective_rank(np.array([2.0, 1.0])) == pytest.approx(3 / 2 ** (2 / 3))
    assert sp.stable_rank(np.array([2.0, 1.0])) == pytest.approx(1.25)
    np.testing.assert_allclose(sp.energy_captured(np.array([2.0, 1.0])), [0.8, 1.0])


def test_scale_changes_no_rank_and_does_not_overflow():
    values = np.array([4.0, 2.0, 1.0])
    for scale in (1e-200, 1e200):
        assert sp.stable_rank(values * scale) == pytest.approx(sp.stable_rank(values))
        assert sp.effective_rank(values * scale) == pytest.approx(sp.effective_rank(values))
        np.testing.assert_allclose(sp.energy_captured(values * scale), sp.energy_captured(values))


def test_a_whole_model_keeps_its_order_and_reports_progress():
    seen: list[int] = []
    updates = [
        Update("a", *factors(20, 30, 4, 0)),
        Update("norm", dense=np.ones(20, np.float32)),
        Update("b", dense=np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32)),
        Update("c", *factors(20, 30, 4, 1)),
        Update("d", *factors(10, 30, 2, 2)),
    ]
    found = sp.spectra(iter(updates), progress=seen.append)
    assert list(found) == ["a", "b", "c", "d"], "vectors have no spectrum; the order is the updates'"
    for update in updates:
        if update.name != "norm":
            truth = np.linalg.svd(update.matrix(), compute_uv=False)
            np.testing.assert_allclose(found[update.name], truth[: found[update.name].size], atol=1e-6 * truth[0])
    assert seen[-1] == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["factors", "dense"])
def test_values_that_are_not_finite_are_named(bad, kind):
    B, A = factors(8, 8, 2)
    B[3, 1] = bad
    update = Update("layers.3.q", B, A) if kind == "factors" else Update("layers.3.q", dense=B)
    with pytest.raises(AdapterError, match=r"layers\.3\.q holds NaN or Inf"):
        sp.spectra([Update("fine", *factors(8, 8, 2)), update])


def test_summary_of_a_sketch_uses_the_whole_norm():
    whole = np.random.default_rng(4).standard_normal((200, 200))
    exact, sketch = sp.dense_spectrum(whole), sp.dense_spectrum(whole, values=10, exact_side=50)
    assert sp.summary(sketch)["stable_rank"] == pytest.approx(sp.summary(exact)["stable_rank"], rel=0.02)
    assert sp.summary(sketch)["energy_rank_90"] == 11, "ten of 200 equal directions do not hold 90%"


def test_sketch_finds_the_leading_triples():
    rng = np.random.default_rng(0)
    U, _ = np.linalg.qr(rng.standard_normal((60, 20)))
    V, _ = np.linalg.qr(rng.standard_normal((50, 20)))
    sigma = 0.5 ** np.arange(20)
    got = low_rank.sketched_svd((U * sigma) @ V.T, 5, np.random.default_rng(1))
    assert np.allclose(got[1], sigma[:5], rtol=1e-6)
    best = (U[:, :5] * sigma[:5]) @ V[:, :5].T
    assert np.allclose((got[0] * got[1]) @ got[2], best, atol=1e-6)
