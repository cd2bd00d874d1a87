"""The mark "base verified" holds for an untouched base beside any adapter, and turns red once the base is changed."""

import copy

import torch

from lora_playground.analysis.update import load_updates
from lora_playground.chat.engine import Hosted
from lora_playground.config import ModelConfig
from lora_playground.models.decoding import RowUpdate
from lora_playground.models.llama_forward import LlamaForward
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore
from tests.chat.conftest import House


def test_a_base_that_was_touched_is_not_verified(house: House) -> None:
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    hosted = Hosted(base, threads=1)
    store = RunStore(house.home)
    low, high = (
        RowUpdate(hosted.decoder.adapter(load_updates(store.get(house.runs[name]).update_path)), 1.5)
        for name in ("low", "high")
    )
    untouched = hosted.check.verify([None, low])
    assert untouched.ok and untouched.drift < 1e-5
    weight = base.model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[0] += 0.05  # as a merge that was never undone would leave it
    touched = hosted.check.verify([None, high])
    assert not touched.ok and touched.drift > 1e-4


def test_what_is_checked_is_the_pass_that_answers(house: House) -> None:
    """The loaded model is as it was; only the weights that the decoding pass reads have been changed."""
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    hosted = Hosted(base, threads=1)
    forward = hosted.decoder.forward
    assert isinstance(forward, LlamaForward)
    forward.causal = copy.deepcopy(forward.causal)
    with torch.no_grad():
        forward.causal.model.layers[0].self_attn.q_proj.weight[0] += 0.05
    assert base.fingerprint.drift(base.model) == 0
    assert not hosted.check.verify([None]).ok


def test_results_are_kept_for_the_adapters_that_they_were_made_with(house: House) -> None:
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    hosted = Hosted(base, threads=1)
    path = RunStore(house.home).get(house.runs["low"]).update_path
    seen = []
    for _ in range(30):  # each adapter is gone when the next is made, which may then get its id
        update = RowUpdate(hosted.decoder.adapter(load_updates(path)))
        seen.append(hosted.check.verify([None, update]))
        del update
    assert len({id(one) for one in seen}) == 30
    again = RowUpdate(hosted.decoder.adapter(load_updates(path)))
    assert hosted.check.verify([None, again]) is hosted.check.verify([None, again])
