"""Subspaces, alignment with the base, and cuts: constructed cases with known answers."""

import numpy as np
import pytest
import scipy.linalg

from lora_playground.analysis import alignment as al
from lora_playground.analysis import subspaces as sub
from lora_playground.analysis.spectra import spectra
from lora_playground.analysis.truncation import MODES, Decomposition, Truncation, energy_kept
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError, ConfigError


def orthonormal(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, k)))[0]


def made(m: int, n: int, values: list[float], seed: int = 0, name: str = "q") -> Update:
    """An update with known singular values and directions, kept as factors in another basis."""
    r = len(values)
    U, V = orthonormal(m, r, seed), orthonormal(n, r, seed + 1)
    mix = np.random.default_rng(seed + 2).standard_normal((r, r)) + 3 * np.eye(r)
    return Update(name, (U * values) @ mix, np.linalg.inv(mix) @ V.T)


# ------------------------------------------------------------------------------------------------------ subspaces


def test_similarity_of_a_subspace_with_itself_and_its_complement():
    V = orthonormal(20, 8)
    phi = sub.similarity(V[:, :4], V)
    assert phi.shape == (4, 8)
    np.testing.assert_allclose(np.diag(phi), 1.0)
    np.testing.assert_allclose(phi[3, 3:], 1.0)
    np.testing.assert_allclose(sub.similarity(V[:, :4], V[:, 4:]), 0.0, atol=1e-25)


def test_similarity_follows_its_formula_and_ignores_the_basis_within():
    V1, V2 = orthonormal(30, 5, 1), orthonormal(30, 7, 2)
    phi = sub.similarity(V1, V2)
    for i in range(1, 6):
        for j in range(1, 8):
            expected = np.linalg.norm(V1[:, :i].T @ V2[:, :j]) ** 2 / min(i, j)
            assert phi[i - 1, j - 1] == pytest.approx(expected)
    turned = V1 @ orthonormal(5, 5, 3)
    assert sub.similarity(turned, V2)[4, 6] == pytest.approx(phi[4, 6])


def test_random_subspaces_meet_the_random_baseline():
    n, k1, k2 = 200, 4, 16
    mean = np.mean([sub.similarity(orthonormal(n, k1, s), orthonormal(n, k2, 1000 + s)) for s in range(60)], axis=0)
    np.testing.assert_allclose(mean, sub.random_similarity(k1, k2, n), rtol=0.35)
    assert mean[-1, -1] == pytest.approx(k2 / n, rel=0.1)


def test_principal_angles_of_known_planes():
    e = np.eye(5)
    tilt = np.radians(1e-6)
    plane = np.stack([e[0], e[1]], axis=1)
    other = np.stack([np.cos(tilt) * e[0] + np.sin(tilt) * e[2], np.cos(1.0) * e[1] + np.sin(1.0) * e[3]], axis=1)
    np.testing.assert_allclose(sub.principal_angles(plane, other), [1e-6, np.degrees(1.0)], rtol=1e-6)
    V1, V2 = orthonormal(12, 3, 4), orthonormal(12, 5, 5)
    np.testing.assert_allclose(
        np.sort(sub.principal_angles(V1, V2)), np.sort(np.degrees(scipy.linalg.subspace_angles(V1, V2))), rtol=1e-9
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_directions_come_from_factors_as_from_the_dense_product(side):
    update = made(24, 36, [5.0, 3.0, 2.0, 1.0])
    U, _, Vt = np.linalg.svd(update.matrix())
    expected = U[:, :4] if side == "left" else Vt[:4].T
    np.testing.assert_allclose(np.abs(np.sum(sub.directions(update, side) * expected, axis=0)), 1.0, atol=1e-10)


def test_factor_directions_are_those_of_the_paper():
    update = made(24, 36, [5.0, 3.0])
    Vt = np.linalg.svd(update.A, full_matrices=False)[2]
    np.testing.assert_allclose(np.abs(np.sum(sub.directions(update, "right", "factor") * Vt.T, axis=0)), 1.0)
    with pytest.raises(AdapterError, match="no factors"):
        sub.directions(Update("x", dense=np.eye(3)), "right", "factor")


def test_a_small_rank_inside_a_large_one_is_seen():
    large = made(40, 50, [8, 6, 4, 2, 1, 0.5])
    U, values, Vt = np.linalg.svd(large.matrix(), full_matrices=False)
    small = Update("q", U[:, :2] * values[:2], Vt[:2])
    found = sub.compare(small, large)
    np.testing.assert_allclose(found.similarity[1, 1:], 1.0)
    np.testing.assert_allclose(found.angles, 0.0, atol=1e-5)
    assert found.chance[0, 0] == pytest.approx(1 / 50)


def test_adapters_of_different_models_or_still_zero_are_refused():
    with pytest.raises(AdapterError, match="same base model"):
        sub.compare(made(8, 9, [1.0]), made(8, 10, [1.0]))
    with pytest.raises(AdapterError, match="still zero"):
        sub.compare(made(8, 9, [1.0]), Update("q", np.zeros((8, 2)), np.ones((2, 9))))
    with pytest.raises(AdapterError, match="different spaces"):
        sub.similarity(orthonormal(5, 2), orthonormal(6, 2))


# ------------------------------------------------------------------------------------------------------ alignment


def test_amplification_of_known_directions():
    m, n = 48, 64
    U, V = orthonormal(m, m), orthonormal(n, m, 1)
    sigma = np.linspace(10, 1, m)
    W = (U * sigma) @ V.T
    weakest = Update("q", 6.0 * U[:, -1:], V[:, -1:].T)
    found = al.amplification(weakest, W)
    assert found.rank == 1 and found.by_update == pytest.approx(1.0) and found.factor == pytest.approx(6.0)
    assert found.by_base == pytest.approx(10.0), "with W's own vectors it is √Σσᵢ² of the leading r"
    assert al.amplification(weakest, W, rank=5).rank == 1, "no more directions than the update has"


def test_random_directions_catch_what_chance_predicts():
    # ‖PᵀWQ‖ ≈ ‖W‖·r/√(mn), the row 'random' of the paper's table 7.
    W = np.random.default_rng(0).standard_normal((200, 200))
    found = al.amplification(made(200, 200, [1.0] * 8), W, draws=40)
    assert found.by_random == pytest.approx(np.linalg.norm(W) * 8 / 200, rel=0.05)
    assert found.by_update == pytest.approx(found.by_random, rel=0.2), "a random update is aligned by chance only"
    assert found.factor_random == pytest.approx(found.update_norm / found.by_random)


def test_alignment_finds_the_base_directions_an_update_follows():
    W = np.random.default_rng(1).standard_normal((30, 40))
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    update = Update("q", np.stack([3 * U[:, 4], 2 * U[:, 0]], axis=1), np.stack([Vt[7], Vt[2]]))
    left = al.alignment(update, W, k=8)
    assert left.shape == (2, 8)
    assert left[0].argmax() == 4 and left[1].argmax() == 0 and left.max() == pytest.approx(1.0)
    right = al.alignment(update, W, k=8, side="right")
    assert right[0].argmax() == 7 and right[1].argmax() == 2


def test_no_update_gives_no_intruder_and_a_spread_strong_term_exactly_one():
    m = n = 96
    W = np.random.default_rng(2).standard_normal((m, n))
    U, values, Vt = np.linalg.svd(W)
    assert al.intruders(Update("q", dense=np.zeros((m, n))), W).count == 0
    spread = Update("q", 3 * values[0] * (U @ np.ones((m, 1)) / np.sqrt(m)), (np.ones((1, n)) / np.sqrt(n)) @ Vt)
    for side in ("left", "right"):
        found = al.intruders(spread, W, side=side)
        assert found.count == 1
        assert found.cosines.argmin() == 0 and found.values[0] > 2.5 * values[0]
    assert al.intruders(spread, W, epsilon=0.0).count == 0
    with pytest.raises(AdapterError, match="between 0 and 1"):
        al.intruders(spread, W, epsilon=1.5)


def test_the_random_floor_is_what_was_measured_at_768():
    mean, high = al.random_floor(768, 768)
    assert mean == pytest.approx(0.12, abs=0.01) and high <= 0.175


@pytest.mark.parametrize("shape", [(120, 480), (480, 120), (200, 200)])
def test_noise_stays_within_the_marchenko_pastur_band(shape):
    M = 0.02 * np.random.default_rng(3).standard_normal(shape)
    values = np.linalg.svd(M, compute_uv=False)
    low, high = al.noise_band(shape, 0.02)
    assert values[0] == pytest.approx(high, rel=0.04) and values[-1] >= low * 0.9 - 1e-9
    assert al.noise_level(values, shape) == pytest.approx(0.02, rel=0.02)


def test_directions_planted_in_noise_are_counted():
    rng = np.random.default_rng(4)
    M = 0.02 * rng.standard_normal((200, 300)) + made(200, 300, [9, 6, 3]).matrix()
    values = np.linalg.svd(M, compute_uv=False)
    count, edge = al.above_noise(values, (200, 300))
    assert count == 3 and edge == pytest.approx(0.02 * (np.sqrt(200) + np.sqrt(300)), rel=0.03)
    with pytest.raises(AdapterError, match="whole spectrum"):
        al.noise_level(values[:10], (200, 300))
    # Of a large update a sketch knows the largest values and the norm of all.
    norm = float(np.linalg.norm(values))
    part, near = al.above_noise(values[:32], (200, 300), norm)
    assert part == 3 and near == pytest.approx(edge, rel=0.05)
    assert al.above_noise(values[:2], (200, 300), norm)[0] == 2, "all that is known stands above it"
    with pytest.raises(AdapterError, match="norm of the whole"):
        al.above_noise(values[:32], (200, 300))


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40)])
def test_a_basis_through_the_gram_matrix_is_that_of_the_svd(shape):
    W = np.random.default_rng(6).standard_normal(shape)
    U, values, _ = np.linalg.svd(W, full_matrices=False)
    basis, found = al.left_basis(W)
    np.testing.assert_allclose(found, values, rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(basis * U, axis=0)), 1.0, atol=1e-8)
    flat = np.outer(W[:, 0], W[0])  # one direction: its basis must still be orthonormal
    basis, _ = al.left_basis(flat)
    np.testing.assert_allclose(basis.T @ basis, np.eye(min(shape)), atol=1e-10)


@pytest.mark.parametrize("call", [al.amplification, al.alignment, al.intruders])
def test_a_base_of_another_shape_is_refused(call):
    with pytest.raises(AdapterError, match="another base model"):
        call(made(8, 9, [1.0]), np.zeros((9, 8)))


# ----------------------------------------------------------------------------------------------------------- cuts


def model() -> list[Update]:
    dense = Update("d", dense=np.random.default_rng(9).standard_normal((12, 10)).astype(np.float32))
    vector = Update("norm", dense=np.ones(12, np.float32))
    return [made(24, 36, [5, 3, 2, 1], name="a"), made(20, 16, [4, 2], 7, name="b"), dense, vector]


def expected(update: Update, kept: slice, strength: float) -> np.ndarray:
    U, values, Vt = np.linalg.svd(update.matrix(), full_matrices=False)
    return strength * (U[:, kept] * values[kept]) @ Vt[kept]


@pytest.mark.parametrize(
    "cut, slices",
    [
        (Truncation("top", k=1), [slice(0, 1)] * 3),
        (Truncation("top", k=3, strength=0.5), [slice(0, 3), slice(0, 2), slice(0, 3)]),
        (Truncation("bottom", k=1, strength=2.0), [slice(3, 4), slice(1, 2), slice(9, 10)]),
        (Truncation("range", first=2, last=3), [slice(1, 3), slice(1, 2), slice(1, 3)]),
        (Truncation("one", first=2), [slice(1, 2)] * 3),
    ],
)
def test_a_cut_equals_the_dense_truncation(cut, slices):
    updates = model()
    left = {u.name: u for u in Decomposition(updates).truncate(cut)}
    for update, kept in zip(updates[:3], slices):
        np.testing.assert_allclose(left[update.name].matrix(), expected(update, kept, cut.strength), atol=2e-6)
    # A vector is one direction, its strongest, which cuts that begin with the second leave out.
    assert ("norm" in left) == (cut.mode in ("top", "bottom"))
    np.testing.assert_allclose(left["norm"].matrix() if "norm" in left else cut.strength, cut.strength)


def test_keeping_everything_gives_the_same_arrays_and_keeping_nothing_the_base():
    updates = model()
    decomposition = Decomposition(updates)
    every = [Truncation("top", k=k) for k in (decomposition.rank, 99)] + [Truncation("bottom", k=99)]
    for cut in (Truncation(), *every, Truncation("range", last=99)):
        for before, after in zip(updates, decomposition.truncate(cut)):
            assert after is before, "identical answers need identical arrays"
    for cut in (
        Truncation("top", k=0),
        Truncation("bottom", k=0),
        Truncation(strength=0.0),
        Truncation("one", first=50),
    ):
        assert decomposition.truncate(cut) == []


def test_a_module_with_fewer_directions_drops_out_of_a_range_beyond_them():
    left = {u.name for u in Decomposition(model()).truncate(Truncation("range", first=3, last=4))}
    assert "b" not in left and "a" in left


def test_top_and_bottom_of_a_cut_add_up():
    updates = model()[:2]
    decomposition = Decomposition(updates)
    top = decomposition.truncate(Truncation("top", k=1))
    bottom = decomposition.truncate(Truncation("range", first=2, last=99))
    for update, a, b in zip(updates, top, bottom):
        np.testing.assert_allclose(a.matrix() + b.matrix(), update.matrix(), atol=3e-6)


def test_energy_kept_is_counted_over_all_modules():
    updates = model()[:2]
    total = 25 + 9 + 4 + 1 + 16 + 4
    shares = {"top": 41 / total, "bottom": 5 / total}
    given = [(Truncation(), 1.0), (Truncation("top"), 0.0), *((Truncation(m, k=1), s) for m, s in shares.items())]
    for cut, share in given:
        assert Decomposition(updates).energy(cut) == pytest.approx(share)
        assert energy_kept(spectra(updates), cut) == pytest.approx(share)
    assert energy_kept({}, Truncation()) == energy_kept({"a": np.zeros(3)}, Truncation()) == 0.0


def test_an_untrained_adapter_can_be_cut():
    zero = [Update("q", np.zeros((4, 2), np.float32), np.ones((2, 5), np.float32))]
    first = Truncation("top", k=1)
    assert Decomposition(zero).truncate(first) == [] and Decomposition(zero).energy(first) == 0.0


@pytest.mark.parametrize(
    "options, field",
    [
        ({"mode": "middle"}, "cut.mode"),
        ({"mode": "top", "k": -1}, "cut.k"),
        ({"mode": "top", "k": 1.5}, "cut.k"),
        ({"mode": "one", "first": 0}, "cut.first"),
        ({"mode": "range", "first": 3, "last": 2}, "cut.last"),
        ({"strength": 2.5}, "cut.strength"),
        ({"strength": float("nan")}, "cut.strength"),
        ({"strength": "1"}, "cut.strength"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(options, field):
    with pytest.raises(ConfigError) as caught:
        Truncation(**options)
    assert caught.value.field == field


def test_cuts_are_said_in_words():
    assert Truncation("top", k=2).describe() == "the 2 strongest directions"
    assert Truncation("bottom", k=1, strength=0.5).describe() == "the weakest direction at strength 0.5"
    assert {Truncation(mode).describe() for mode in MODES}
