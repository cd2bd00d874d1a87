"""Updates after a short training against their papers' formulas, computed densely in float64 from what was trained."""

import numpy as np
import pytest
from trials import trial

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
