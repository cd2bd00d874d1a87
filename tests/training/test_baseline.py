"""The validation loss: the one that training is compared with is the base's, also where a method changes the output at
step 0; and when it is taken of a run that nobody watches."""

from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from transformers import AutoModelForCausalLM

from lora_playground.config import ModelConfig, TrainingConfig
from lora_playground.data.encoding import encode
from lora_playground.models.loading import load_base
from lora_playground.training import TrainPlan, train
from lora_playground.training.reports import Report
from lora_playground.variants import VARIANTS, get_variant
from lora_playground.variants.base import Context

ROWS = [{"messages": [{"role": "user", "content": f"What about the {word}?"}, {"role": "assistant", "content": word}]}
        for word in ("baker", "dog", "cheese", "river", "house", "captain")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with weights so large that a product of three of their blocks shows."""
    made = make_checkpoint(tmp_path_factory.mktemp("base") / "llama", "llama")
    model = AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)
    model.save_pretrained(made)
    return str(made)


def trained(folder: str, name: str, mode: str, starts_as_base: bool) -> Any:
    base = load_base(ModelConfig(source=folder), "cpu", "float32")
    variant, examples = get_variant(name), encode(base.tokenizer, ROWS, 64).examples
    options = variant.config(rank=4, mode=mode, alpha=8.0)
    model = variant.attach(base.model, options, Context(steps=3))
    settings = TrainingConfig(steps=3, batch_tokens=128, learning_rate=1e-3)
    plan = TrainPlan(settings, variant, examples, examples, starts_as_base=starts_as_base, on_spectra=False)
    return train(model, plan, [].append, lambda: False)


@pytest.mark.parametrize("name", ["nlora", "inttune"])
def test_a_start_that_changes_the_output_is_not_taken_for_the_base(folder: str, name: str) -> None:
    base = load_base(ModelConfig(source=folder), "cpu", "float32")
    total = learned = 0.0
    for example in encode(base.tokenizer, ROWS, 64).examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.learned)[None], ids, -100)
        count = int((labels[:, 1:] >= 0).sum())
        total, learned = total + float(base.model(input_ids=ids, labels=labels).loss) * count, learned + count
    right, wrong = trained(folder, name, "released", False), trained(folder, name, "released", True)
    assert right.validation_start == pytest.approx(total / learned, rel=1e-4)
    assert abs(wrong.validation_start - total / learned) > 1e-3, "the start does change the output"
    assert right.losses == wrong.losses and right.validation_end == wrong.validation_end, "training is left alone"


@pytest.mark.parametrize("name", [name for name in sorted(VARIANTS) if "mode" in VARIANTS[name].config.model_fields])
def test_which_options_start_as_the_base(folder: str, name: str) -> None:
    ids = torch.randint(5, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    for mode in ("residual", "pinv_residual", "released"):
        model = load_base(ModelConfig(source=folder), "cpu", "float32").model
        variant, before = VARIANTS[name], model(input_ids=ids).logits.detach()
        options = variant.config(rank=4, mode=mode)
        after = variant.attach(model, options, Context()).eval()(input_ids=ids).logits.detach()
        same = float((after - before).abs().max() / before.abs().max()) < 1e-4
        assert variant.starts_as_base(options) is same, mode


def test_a_run_that_nobody_watches_is_validated_when_all_of_its_sweep_are(folder: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(Report, "maybe", lambda *_: None)  # on a machine that has no time for it
    base = load_base(ModelConfig(source=folder), "cpu", "float32")
    variant, examples = get_variant("lora"), encode(base.tokenizer, ROWS, 64).examples
    model = variant.attach(base.model, variant.config(rank=2), Context(steps=36))
    events: list[dict[str, Any]] = []
    settings = TrainingConfig(steps=36, batch_tokens=128, learning_rate=1e-3)
    plan = TrainPlan(settings, variant, examples, examples, on_spectra=False, watched=False)
    train(model, plan, events.append, lambda: False)
    assert [event["step"] for event in events if event["type"] == "validation"] == [0, 9, 18, 36]
