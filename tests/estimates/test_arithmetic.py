"""A step's arithmetic against what torch counts on the whole embedded model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lora_playground.config import ModelConfig, RunConfig
from lora_playground.estimates.arithmetic import LEARNED, step_flops
from lora_playground.models.loading import load_base
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context

TOKENS = 256


def config(name: str, **training: object) -> RunConfig:
    return RunConfig.parse({"variant": {"name": name}, "training": {"batch_tokens": TOKENS, **training}})


@pytest.mark.parametrize("name", ["lora", "dora", "celora", "full"])
def test_a_step_is_what_torch_counts(name: str) -> None:
    base = load_base(ModelConfig(), "cpu", "float32").model
    model = VARIANTS[name].attach(base, config(name).variant, Context(steps=1)).train()
    ids = torch.randint(5, 500, (TOKENS // 64, 64))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    head = base.get_input_embeddings().weight.numel()
    unlearned = (1 - LEARNED) * 4 * head * TOKENS  # the training loop leaves them out, this pass does not
    said = step_flops(config(name))
    assert said is not None and said + unlearned == pytest.approx(counter.get_total_flops(), rel=0.08)


def test_methods_and_options_differ_as_they_should() -> None:
    steps = {name: step_flops(config(name)) for name in ("lora", "celora", "dora", "lorafa", "full")}
    assert steps["celora"] <= steps["lora"] < steps["dora"] < steps["full"] and steps["lorafa"] < steps["lora"]
    assert step_flops(config("lora", accumulation=4)) == steps["lora"]  # nothing of LoRA is made once a pass
    assert step_flops(config("dora", accumulation=4)) > steps["dora"]
    assert step_flops(config("lora", gradient_checkpointing=True)) > 1.2 * steps["lora"]
    assert step_flops(RunConfig.parse({"model": {"source": "nobody/knows-it"}})) is None
