"""The mark "base verified" holds for an untouched base beside any adapter, and turns red once the base is changed."""

import torch

from lora_playground.analysis.update import load_updates
from lora_playground.chat.engine import Hosted
from lora_playground.config import ModelConfig
from lora_playground.models.decoding import RowUpdate
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore
from tests.chat.conftest import House


def test_a_base_that_was_touched_is_not_verified(house: House) -> None:
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    hosted = Hosted(base)
    store = RunStore(house.home)
    low, high = (
        RowUpdate(hosted.decoder.adapter(load_updates(store.get(house.runs[name]).update_path)), 1.5)
        for name in ("low", "high")
    )
    untouched = hosted.verify([None, low])
    assert untouched.ok and untouched.drift < 1e-5
    weight = base.model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[0] += 0.05  # as a merge that was never undone would leave it
    touched = hosted.verify([None, high])
    assert not touched.ok and touched.drift > 1e-4
