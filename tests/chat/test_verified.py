"""The mark "base verified" holds for an untouched base beside any adapter, and turns red once the base is changed."""

import copy

import torch

from lora_playground.analysis.update import load_updates
from lora_playground.chat.engine import Hosted
from lora_playground.config import ModelConfig
from lora_playground.models.base_check import BaseCheck
from lora_playground.models.decoding import Decoder, PlacedUpdate, RowUpdate
from lora_playground.models.llama_forward import LlamaForward
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore
from tests.chat.conftest import House


def test_a_base_that_was_touched_is_not_verified(house: House) -> None:
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    hosted = Hosted(base, 1, RunStore(house.home), str(house.base))
    store = RunStore(house.home)
    low, high = (
        RowUpdate(hosted.decoder.adapter(load_updates(store.get(house.runs[name]).update_path)), 1.5)
        for name in ("low", "high")
    )
    assert hosted.check.drift([None, low]) < 1e-5
    weight = base.model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[0] += 0.05  # as a merge that was never undone would leave it
    assert hosted.check.drift([None, high]) > hosted.check.limit


def test_what_is_checked_is_the_pass_that_answers(house: House) -> None:
    """The loaded model is as it was; only the weights that the decoding pass reads have been changed."""
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    hosted = Hosted(base, 1, RunStore(house.home), str(house.base))
    forward = hosted.decoder.forward
    assert isinstance(forward, LlamaForward)
    forward.causal = copy.deepcopy(forward.causal)
    with torch.no_grad():
        forward.causal.model.layers[0].self_attn.q_proj.weight[0] += 0.05
    assert base.fingerprint.drift(base.model) == 0
    assert hosted.check.drift([None]) > hosted.check.limit


def test_a_result_counts_for_the_adapters_that_it_was_made_with(house: House) -> None:
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    check = BaseCheck(base, Decoder(base.model, base.tokenizer))
    updates = load_updates(RunStore(house.home).get(house.runs["low"]).update_path)
    measured = []
    check._measured = lambda rows: measured.append(rows) or 0.0  # type: ignore[assignment,func-returns-value]
    for _ in range(30):  # each adapter is done with when the next is made, which must not pass for it
        update = RowUpdate(PlacedUpdate(base.model, updates))
        check.drift([None, update])
        check.drift([update, None])
        del update
    assert len(measured) == 30
