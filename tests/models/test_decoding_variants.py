"""Every variant in the registry: in one batch, the base row is the base and the adapted row is what PEFT computes."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "variants"))

from trials import base, checkpoint, logits, supports, tokens, trial

from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.llama_forward import LlamaForward
from lora_playground.variants import VARIANTS


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_panes_are_pefts_own_models(name: str, kind: str) -> None:
    """Prompts of three lengths, each as base, as adapted, at half strength and at none: against the trained PEFT model
    itself, the pristine model, and the pristine model with half of ΔW added to its weights."""
    if not supports(name, kind):
        pytest.skip(f"{name} does not take this model at 16 bit")
    made = trial(name, kind)
    model = base(kind).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    decoder = Decoder(model, AutoTokenizer.from_pretrained(checkpoint(kind)))
    assert isinstance(decoder.forward, LlamaForward) == (kind == "llama")
    adapter = decoder.adapter(made.updates)
    ids = tokens(1)[0].tolist()
    lengths = (4, 9, 12)
    panes = [None, RowUpdate(adapter), RowUpdate(adapter, 0.0)]
    got = decoder.next_logits([ids[:n] for n in lengths for _ in panes], panes * len(lengths)).view(3, 3, -1)
    size = float(made.at_base.abs().max())
    for row, n in enumerate(lengths):
        torch.testing.assert_close(got[row, 0], made.at_base[0, n - 1], atol=1e-5 * size, rtol=1e-5)
        torch.testing.assert_close(got[row, 1], made.at_end[0, n - 1], atol=1e-5 * size, rtol=1e-5)
        torch.testing.assert_close(got[row, 2], got[row, 0], atol=1e-6 * size, rtol=1e-6)
    assert not torch.allclose(made.at_end, made.at_base, atol=1e-4 * size)  # there is something to tell apart
    torch.testing.assert_close(logits(model), made.at_base, atol=0, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
