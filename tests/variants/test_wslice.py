"""Where the slice family starts: PiSSA's start at position 0, the smallest directions at 1, dense SVD in between."""

import numpy as np
import pytest
import torch
from trials import KINDS, base, logits

from lora_playground.models.linear import is_conv1d
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers


def starts(name: str, kind: str, **options: float) -> dict[str, np.ndarray]:
    """s·B₀A₀ of every module."""
    variant = VARIANTS[name]
    model = base(kind)
    before = logits(model)
    wrapped = variant.attach(model, variant.config(rank=4, alpha=6.0, **options), Context(steps=1))
    assert torch.allclose(logits(wrapped), before, atol=1e-5)
    return {
        where: (layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight * layer.scaling[ADAPTER]).detach().numpy()
        for where, layer in tuner_layers(wrapped)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_is_that_part_of_w(kind: str) -> None:
    modules = {name: module for name, module in base(kind).named_modules() if hasattr(module, "weight")}
    for position in (0.0, 0.4, 1.0):
        for name, found in starts("wslice", kind, position=position).items():
            module = modules[name.removeprefix("base_model.model.")]
            W = module.weight.detach().numpy()
            U, values, Vt = np.linalg.svd(W.T if is_conv1d(module) else W, full_matrices=False)
            c = round(position * (len(values) - 4))
            assert np.allclose(found, (U[:, c : c + 4] * values[c : c + 4]) @ Vt[c : c + 4], atol=1e-5), name


def test_position_0_is_pissa() -> None:
    ours, theirs = starts("wslice", "llama", position=0.0), starts("pissa", "llama")
    assert ours.keys() == theirs.keys() and all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
