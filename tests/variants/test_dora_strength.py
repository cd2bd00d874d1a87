"""DoRA in chat: a strength scales the update, W + s·ΔW, and not DoRA's own factors."""

import pytest
import torch
from trials import apply, base, checkpoint, tokens, trial

from lora_playground.analysis.update import Update
from lora_playground.config import ModelConfig
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import load_base


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_with_dora_a_strength_in_chat_means_w_plus_that_much_of_its_update(strength):
    updates = trial("dora", "llama").updates
    host = load_base(ModelConfig(source=str(checkpoint("llama"))), device="cpu", dtype="float32")
    decoder = Decoder(host.model, host.tokenizer)
    ids = tokens(1, rows=1)
    chat = decoder.logits(ids[0].tolist(), RowUpdate(decoder.adapter(updates), strength))
    scaled = [Update(update.name, dense=strength * update.dense) for update in updates]
    with torch.no_grad():
        merged = apply(base("llama"), scaled)(input_ids=ids).logits[0]
    torch.testing.assert_close(chat, merged, atol=1e-5, rtol=1e-4)
