"""Scaled intruders against PEFT's `reduce_intruder_dimension`, and on a constructed one."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import nn

from lora_playground.analysis.intruder_dial import dial
from lora_playground.analysis.update import Update

M, N, R = 48, 64, 4


def strong(seed: int = 0) -> tuple[np.ndarray, Update]:
    """W, and an update whose directions are spread over all of W's and stronger than them."""
    noise = np.random.default_rng(seed)
    W = noise.standard_normal((M, N)) / 8
    return W, Update("one", noise.standard_normal((M, R)) / 3, noise.standard_normal((R, N)) / 3)


@pytest.mark.parametrize("factor", [0.0, 0.75, 2.0])
def test_equal_to_peft_before_it_cuts(factor: float) -> None:
    W, update = strong()
    net = nn.Module()
    net.one = nn.Linear(N, M, bias=False)
    net.one.weight.data = torch.tensor(W, dtype=torch.float32)
    model = get_peft_model(net, LoraConfig(r=R, lora_alpha=R, target_modules=["one"]))
    layer = model.base_model.model.one
    layer.lora_A["default"].weight.data = torch.tensor(update.A, dtype=torch.float32)
    layer.lora_B["default"].weight.data = torch.tensor(update.B, dtype=torch.float32)
    reduce_intruder_dimension(model, mitigation_lambda=factor, logging_sink=None)
    expected = layer.get_delta_weight("intruder_reduced").detach().double().numpy()
    found = dial(update, W)
    assert found.U.shape[1] == R
    U, s, Vt = np.linalg.svd(found.at(factor).matrix())
    assert np.allclose((U[:, :R] * s[:R]) @ Vt[:R], expected, atol=1e-4)


def test_zero_takes_the_direction_out_of_the_sum_and_one_changes_nothing() -> None:
    W, update = strong(1)
    found = dial(update, W)
    assert found.at(1.0) is update
    left = W + found.at(0.0).matrix()
    assert np.abs(found.U.T @ left).max() < 1e-5
    twice = W + found.at(2.0).matrix()
    assert np.allclose(found.U.T @ twice, 2 * found.U.T @ (W + update.matrix()), atol=1e-5)
    dense = dial(Update("one", dense=update.matrix()), W)
    assert np.allclose(dense.at(0.5).matrix(), found.at(0.5).matrix(), atol=1e-5)


def test_no_intruders_no_change() -> None:
    W = strong()[0]
    U, _, Vt = np.linalg.svd(W)
    along = Update("one", U[:, :2], Vt[:2])  # strengthens what W has
    assert dial(along, W).at(0.0) is along
