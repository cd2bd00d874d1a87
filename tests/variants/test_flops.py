"""What variants declare of their arithmetic against what torch counts in a forward and a backward pass."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.targets import linear_shapes

TOKENS = (64, 128)


def model(bits: int, folder: Path) -> LlamaForCausalLM:
    """A small model whose layers outweigh attention and head; in 4 bit, as LoftQ asks for it, read from the folder."""
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            head_dim=64, vocab_size=16,
        )
    )  # fmt: skip
    if bits == 16:
        return made
    made.save_pretrained(folder)
    stored = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(folder, quantization_config=stored)


def counted(name: str, tokens: int, folder: Path) -> tuple[float, float]:
    """(torch's count, the variant's) of one pass."""
    variant, bits = VARIANTS[name], max(VARIANTS[name].bits)
    base, looked_at = model(bits, folder), torch.randint(0, 16, (4, 24))
    batches = [{"input_ids": looked_at, "attention_mask": torch.ones_like(looked_at), "labels": looked_at}]
    shapes = linear_shapes(base)
    config = variant.config(**({"rank": 8} if "rank" in variant.config.model_fields else {}))
    tuned = variant.attach(base, config, Context(steps=10, batches=batches, bits=bits)).train()
    ids = torch.randint(0, 16, (1, tokens))
    embedded = tuned.get_input_embeddings()(ids).detach().requires_grad_()  # so that all modules pass a gradient back
    with FlopCounterMode(display=False) as counter:
        tuned(inputs_embeds=embedded, labels=ids).loss.backward()
    declared = sum(variant.flops(module, shape, config, tokens) for module, shape in shapes.items())
    # The forward product with a 4-bit W is bitsandbytes' own operation, which torch does not count.
    unseen = 2 * tokens * sum(m * n for m, n in shapes.values()) if bits == 4 else 0
    return counter.get_total_flops() + unseen, declared


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_declared_arithmetic_is_what_torch_counts(name: str, tmp_path: Path) -> None:
    (few, said_few), (many, said_many) = (counted(name, tokens, tmp_path) for tokens in TOKENS)
    # Attention and the head, the same for all variants, are a few hundredths of the whole.
    assert said_many - said_few == pytest.approx(many - few, rel=0.08)
    assert said_many == pytest.approx(many, rel=0.12)


def test_what_is_saved_can_be_more_than_what_trains() -> None:
    shapes = [(256, 256), (704, 256)]
    count = {name: VARIANTS[name].count(shapes, VARIANTS[name].config(rank=8)) for name in ("lora", "inttune", "pissa")}
    saved = {name: VARIANTS[name].saved(shapes, VARIANTS[name].config(rank=8)) for name in count}
    assert saved["lora"] == count["lora"] and saved["pissa"] == 2 * count["pissa"]
    assert saved["inttune"] == 2 * count["lora"] > 40 * count["inttune"]
