"""Updates after a short training against their papers' formulas, computed densely in float64 from what was trained."""

import numpy as np
import pytest
import torch
from trials import base, batches, trial

from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers


def weights(name: str, kind: str) -> dict[str, np.ndarray]:
    """The pristine W (out, in) of every adapted module."""
    case = trial(name, kind)
    found = {}
    for update in case.updates:
        W = case.pristine.get(f"{update.name}.weight")
        if W is not None:
            found[update.name] = (W.T if kind == "gpt2" else W).double().numpy()
    return found


def array(tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_hira_multiplies_w_by_a_low_rank_matrix_and_reaches_a_high_rank(kind: str) -> None:
    case, W = trial("hira", kind), weights("hira", kind)
    layers = dict(tuner_layers(case.model))
    for update in case.updates:
        layer = layers[update.name]
        expected = W[update.name] * (array(layer.hira_B[ADAPTER]) @ array(layer.hira_A[ADAPTER]))
        np.testing.assert_allclose(update.matrix(), expected, atol=1e-7 * np.abs(W[update.name]).max())
        values = np.linalg.svd(update.matrix(), compute_uv=False)
        assert values[2 * case.config.rank] > 1e-3 * values[0], "no edge at the rank"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_loraxs_mixes_the_strongest_directions_of_w_alone(kind: str) -> None:
    case, W = trial("loraxs", kind), weights("loraxs", kind)
    layers, r = dict(tuner_layers(case.model)), case.config.rank
    for update in case.updates:
        layer = layers[update.name]
        U, values, Vt = np.linalg.svd(W[update.name], full_matrices=False)
        # N belongs to the tuner's own singular vectors, whose signs are free.
        signs = np.sign(np.sum(Vt[:r] * array(layer.nystrom_A[ADAPTER]), axis=1))
        N = signs[:, None] * array(layer.nystrom_N[ADAPTER]) * signs
        expected = case.config.alpha / r * (U[:, :r] * values[:r]) @ N @ Vt[:r]
        size = np.abs(expected).max()
        assert size > 1e-4
        np.testing.assert_allclose(update.matrix(), expected, atol=3e-4 * size)  # vectors of near values


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_polar_has_orthonormal_directions_and_the_spectrum_of_its_core(kind: str) -> None:
    case = trial("polar", kind)
    layers, r = dict(tuner_layers(case.model)), case.config.rank
    for update in case.updates:
        layer = layers[update.name]
        X, Y = array(layer.nystrom_B[ADAPTER]), array(layer.nystrom_A[ADAPTER]).T
        for side in (X, Y):
            np.testing.assert_allclose(side.T @ side, np.eye(r), atol=2e-6)
        core = case.config.alpha / r * array(layer.nystrom_N[ADAPTER])
        np.testing.assert_allclose(update.matrix(), X @ core @ Y.T, atol=1e-6)
        found = np.linalg.svd(update.matrix(), compute_uv=False)[:r]
        np.testing.assert_allclose(found, np.linalg.svd(core, compute_uv=False), atol=1e-6)
        assert found[0] > 1e-3


def test_polar_steps_along_the_manifold() -> None:
    """To first order: XᵀX does not change along the gradient that is left."""
    variant = VARIANTS["polar"]
    model = variant.attach(base("llama"), variant.config(rank=4), Context(steps=1))
    torch.manual_seed(0)
    for _, layer in tuner_layers(model):
        for parameter in (layer.nystrom_B[ADAPTER], layer.nystrom_A[ADAPTER]):
            parameter.grad = torch.randn_like(parameter)
    variant.after_backward(model, 1)
    for _, layer in tuner_layers(model):
        for parameter, transposed in ((layer.nystrom_B[ADAPTER], False), (layer.nystrom_A[ADAPTER], True)):
            X, G = array(parameter), array(parameter.grad)
            X, G = (X.T, G.T) if transposed else (X, G)
            assert np.abs(X.T @ G + G.T @ X).max() < 1e-5 < np.abs(G).max()


def test_c3a_is_block_circulant_with_singular_values_in_pairs() -> None:
    case = trial("c3a", "llama")
    layers, b = dict(tuner_layers(case.model)), case.config.block_size
    for update in case.updates:
        m, n = update.shape
        rows = array(layers[update.name].c3a_kernel[ADAPTER])
        expected = np.empty((m, n))
        for i in range(m):
            for j in range(n):
                expected[i, j] = rows[i // b, j // b, (j % b - i % b) % b] / n
        np.testing.assert_allclose(update.matrix(), expected, atol=1e-7)
        values = np.linalg.svd(expected, compute_uv=False)
        # By frequency: those of f and b − f are the same, so that all but those of 0 and b/2 come in pairs.
        blocks = np.fft.fft(rows, axis=2) / n
        found = [np.linalg.svd(blocks[:, :, f], compute_uv=False) for f in range(b)]
        np.testing.assert_allclose(values, np.sort(np.concatenate(found))[::-1], atol=1e-7)
        assert all(np.allclose(found[f], found[b - f]) for f in range(1, b))


@pytest.mark.parametrize("purpose", ["learn", "keep"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_corda_starts_from_w_as_the_inputs_weigh_it(kind: str, purpose: str) -> None:
    variant, r = VARIANTS["corda"], 4
    given, plain = batches(), base(kind)
    given[1]["attention_mask"][2, 15:] = 0  # as the end of a shorter example
    inputs: dict[str, list[np.ndarray]] = {}
    layers = dict(
        tuner_layers(
            variant.attach(base(kind), variant.config(rank=r, purpose=purpose), Context(steps=1, batches=given))
        )
    )
    hooks = [
        plain.get_submodule(name).register_forward_hook(
            lambda module, taken, out, name=name: inputs.setdefault(name, []).append(array(taken[0][0]))
        )
        for name in layers
    ]
    with torch.no_grad():
        for batch in given:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                plain(input_ids=ids[mask.bool()][None])
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        W = array(plain.get_submodule(name).weight)
        W = W.T if kind == "gpt2" else W
        C = sum(x.T @ x / x.max() ** 2 for x in inputs[name]) / len(inputs[name])
        C = C + 0.01 * np.diag(C).mean() * np.eye(len(C))
        U, values, Vt = np.linalg.svd(W @ C, full_matrices=False)
        chosen = slice(None, r) if purpose == "learn" else slice(len(values) - r, None)
        expected = (U[:, chosen] * values[chosen]) @ Vt[chosen] @ np.linalg.inv(C)
        start = layer.scaling["start"] * array(layer.lora_B["start"].weight) @ array(layer.lora_A["start"].weight)
        np.testing.assert_allclose(-start, expected, atol=1e-3 * np.abs(expected).max(), err_msg=name)


def test_osf_stays_at_right_angles_to_the_directions_that_it_keeps() -> None:
    case, W = trial("osf", "llama"), weights("osf", "llama")
    for update in case.updates:
        delta, kept = update.matrix(), min(update.shape) - case.config.rank
        U, values, Vt = np.linalg.svd(W[update.name], full_matrices=False)
        size = np.abs(delta).max()
        assert size > 1e-3 and update.B.shape[1] == 2 * case.config.rank
        assert np.abs(U[:, :kept].T @ delta).max() < 1e-3 * size
        assert np.abs(delta @ Vt[:kept].T).max() < 1e-3 * size
        # What W does along them, to the right and to the left, is what the adapted weight does.
        np.testing.assert_allclose(
            (W[update.name] + delta) @ Vt[:kept].T, U[:, :kept] * values[:kept], atol=2e-3 * size
        )
