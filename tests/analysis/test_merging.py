"""Mixtures against PEFT's own `add_weighted_adapter`, against dense float64, and on cases whose answer is known."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_playground.analysis import merging
from lora_playground.analysis.interference import overlap
from lora_playground.analysis.merging import METHODS, Mixture, Recipe, random_like
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError, ConfigError

WEIGHTS = [1.3, -0.7, 0.4]
M, N = 40, 28


def adapter(seed: int, rank: int = 4, names: tuple[str, ...] = ("one", "two")) -> list[Update]:
    noise = np.random.default_rng(seed)
    sizes = [(name, (M, rank), (rank, N)) for name in names]
    return [Update(n, *(noise.standard_normal(size).astype(np.float32) for size in pair)) for n, *pair in sizes]


def dense(updates: list[Update], name: str = "one") -> np.ndarray:
    return next((u.matrix() for u in updates if u.name == name), np.zeros((M, N)))


def mix(adapters: list[list[Update]], weights: list[float], method: str, **options: Any) -> np.ndarray:
    return dense(Mixture(adapters, Recipe(method, **options)).updates(weights))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(N, M, bias=False), nn.Linear(N, M, bias=False)


def of_peft(adapters: list[list[Update]], weights: list[float], kind: str, density: float, rank: int | None) -> Any:
    """ΔW of module `one` as PEFT mixes it, each adapter with a scaling s = 2 of its own."""
    ranks = [updates[0].B.shape[1] for updates in adapters]
    model = None
    for index, updates in enumerate(adapters):
        config = LoraConfig(r=ranks[index], lora_alpha=2 * ranks[index], target_modules=["one", "two"])
        if model is None:
            model = get_peft_model(Net(), config, adapter_name="0")
        else:
            model.add_adapter(str(index), config)
        for update in updates:
            layer = getattr(model.base_model.model, update.name)
            layer.lora_A[str(index)].weight.data = torch.tensor(update.A)
            layer.lora_B[str(index)].weight.data = torch.tensor(update.B) / 2
    names = [str(index) for index in range(len(adapters))]
    model.add_weighted_adapter(names, weights, "mixed", kind, svd_rank=rank, density=density)
    return model.base_model.model.one.get_delta_weight("mixed").detach().double().numpy()


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.peft])
def test_equal_to_peft(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's own code on the same adapters, with negative weights; for DARE it is given our choice of entries."""
    adapters, density = [adapter(seed) for seed in range(3)], 0.6
    if "dare" in method:
        chosen = {a.shape: iter([]) for a in (adapters[0][0].A, adapters[0][0].B)}
        for side, part in enumerate(("B", "A")):
            arrays = [
                (getattr(updates[number], part), np.random.default_rng([7, merging.zlib.crc32(name), index, side]))
                for number, name in enumerate((b"one", b"two"))
                for index, updates in enumerate(adapters)
            ]
            kept = [torch.tensor(random.random(a.shape) < density) for a, random in arrays]
            chosen[arrays[0][0].shape] = iter(kept)

        def pruning(tensor: torch.Tensor, density: float, rescale: bool) -> torch.Tensor:
            return tensor * next(chosen[tuple(tensor.shape)]) / density

        monkeypatch.setattr("peft.utils.merge_utils.random_pruning", pruning)
    rank = 5 if method == "svd" else None
    expected = of_peft(adapters, WEIGHTS, METHODS[method].peft, density, rank)
    options = {"density": density, "rank": rank, "seed": 7}
    found = mix(adapters, WEIGHTS, method, **options)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_other_ranks_and_missing_modules() -> None:
    """Sum, mean and SVD against dense float64 for adapters of other ranks, one of which lacks a module."""
    adapters = [adapter(0, 4), adapter(1, 7), adapter(2, 2, ("two",))]
    whole = 1.3 * dense(adapters[0]) - 0.7 * dense(adapters[1])
    U, s, Vt = np.linalg.svd(whole)
    assert np.allclose(mix(adapters, WEIGHTS, "sum"), whole, atol=1e-5)
    assert np.allclose(mix(adapters, WEIGHTS, "mean"), whole / 3, atol=1e-5)
    assert np.allclose(mix(adapters, WEIGHTS, "svd", rank=3), (U[:, :3] * s[:3]) @ Vt[:3], atol=1e-4)
    for method in ("core_ties", "core_dare", "knots"):  # with all entries kept of one adapter, it comes out whole
        assert np.allclose(mix([adapters[1]], [0.5], method, density=1.0), 0.5 * dense(adapters[1]), atol=1e-5)
    with pytest.raises(AdapterError, match="ranks 4, 7"):
        Mixture(adapters, Recipe("ties"))


def test_knots_is_ties_on_the_dense_decomposition() -> None:
    """[ΔW₁ ΔW₂] decomposed densely, TIES written out on ΣVᵢᵀ; the signs of singular vectors cancel in U·ΣVᵀ."""
    adapters, density = [adapter(0, 3), adapter(1, 5)], 0.3
    U, s, Vt = np.linalg.svd(np.concatenate([dense(a) for a in adapters], 1), full_matrices=False)
    pieces = np.split((s[:, None] * Vt)[:8], 2, axis=1)
    # The majority of an entry depends on the sign of its row, so the rows get the signs that the small core found.
    part = Mixture(adapters, Recipe("knots", density=density)).parts[0]
    signs = np.sign(np.sum(U[:, :8] * part.B, axis=0))
    assert np.allclose(U[:, :8] * signs, part.B, atol=1e-5)
    pieces = [piece * signs[:, None] for piece in pieces]
    for piece in pieces:
        piece[np.abs(piece) < np.sort(np.abs(piece), axis=None)[-int(density * piece.size)]] = 0
    total = pieces[0] + pieces[1]
    agree = [np.sign(p) == np.where(total >= 0, 1, -1) for p in pieces]
    merged = sum(w * p * a for w, p, a in zip((0.8, 1.5), pieces, agree)) / np.maximum(sum(agree), 1)
    found = mix(adapters, [0.8, 1.5], "knots", density=density)
    assert np.allclose(found, (U[:, :8] * signs) @ merged, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_equal_adapters_mix_to_themselves(method: str) -> None:
    """k equal adapters with weights that sum to 1 give the adapter, whatever the method (all entries kept)."""
    one = adapter(3)
    weights = [0.25, 0.25, 0.25, 0.25]
    scale = {"mean": 4.0, "ties": 4.0, "dare_ties": 4.0, "core_ties": 4.0, "knots": 4.0, "linear": 0.25, "dare": 0.25}
    # Means divide by 4 once more; factors are mixed by √w each: (4·√¼)² = 4 times, divided by 4² where signs agree.
    if method in ("ties", "dare_ties"):
        expected = dense(one) * 4 / 16
    else:
        expected = dense(one) / scale.get(method, 1.0)
    assert np.allclose(mix([one] * 4, weights, method, density=1.0), expected, atol=1e-4)


def test_orthogonal_adapters_do_not_meet() -> None:
    """Two adapters on disjoint inputs and outputs: cosine and overlaps are 0, and each input sees its own adapter."""
    first, second = adapter(0), adapter(1)
    for u in first:
        u.B[M // 2 :], u.A[:, N // 2 :] = 0, 0
    for u in second:
        u.B[: M // 2], u.A[:, : N // 2] = 0, 0
    found = overlap(first, second)
    assert abs(found.cosine) < 1e-12 and found.reads < 1e-12 and found.writes < 1e-12
    x = np.zeros(N)
    x[: N // 2] = 1.0
    assert np.allclose(mix([first, second], [1.0, 1.0], "sum") @ x, dense(first) @ x, atol=1e-5)
    same = overlap(first, copy.deepcopy(first))
    assert same.cosine == pytest.approx(1.0) and same.reads == pytest.approx(1.0) == same.writes


def test_the_random_control_has_the_spectrum_and_not_the_directions() -> None:
    one = adapter(5)
    control = random_like(one, seed=1)
    values = [np.linalg.svd(dense(updates), compute_uv=False)[:4] for updates in (one, control)]
    assert np.allclose(values[0], values[1], rtol=1e-5)
    assert overlap(one, control).reads < 0.5
    assert all(np.array_equal(a.matrix(), b.matrix()) for a, b in zip(control, random_like(one, seed=1)))


def test_dense_updates_and_vectors() -> None:
    """A dense adapter can be summed with factors; methods on factors say why they cannot take it."""
    full = [Update("one", dense=np.ones((M, N), np.float32)), Update("norm.weight", dense=np.ones(N, np.float32))]
    found = {u.name: u.matrix() for u in Mixture([full, adapter(0)], Recipe("sum")).updates([2.0, 1.0])}
    assert np.allclose(found["one"], 2 + dense(adapter(0)), atol=1e-5) and np.allclose(found["norm.weight"], 2)
    with pytest.raises(AdapterError, match="Take sum or mean"):
        Mixture([full, adapter(0)], Recipe("core_ties"))
    other = [Update("one", np.ones((M, 1), np.float32), np.ones((1, N + 1), np.float32))]
    with pytest.raises(AdapterError, match="one base model"):
        Mixture([other, adapter(0)], Recipe("sum"))
    with pytest.raises(ConfigError, match="weights"):
        Mixture([adapter(0)], Recipe("sum")).updates([1.0, 2.0])
