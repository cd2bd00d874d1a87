"""What every variant promises, checked on Llama, Qwen3, GPT-2 and Gemma 3 shaped models against PEFT's own results."""

import copy

import numpy as np
import pytest
import torch
from peft import PeftModel
from trials import KINDS, STEPS, apply, base, batches, checkpoint, logits, options, supports, train, trial

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.targets import linear_shapes

CASES = [(name, kind) for name in VARIANTS for kind in KINDS if supports(name, kind)]
PEFT_CASES = [(name, kind) for name, kind in CASES if name != "full"]
# The highest rank ΔW may have at rank 4, from the papers (docs/variants.md), not from the code.
RANK_BOUND = {
    "pissa": 8,
    "wslice": 8,
    "olora": 8,
    "loraga": 8,
    "corda": 8,
    "osf": 8,
    "nlora": 8,
    "inttune": 8,
    "adalora": 6,
}

cases = pytest.mark.parametrize(("name", "kind"), CASES)
peft_cases = pytest.mark.parametrize(("name", "kind"), PEFT_CASES)


def close(left: torch.Tensor, right: torch.Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=1e-4)


def test_there_are_the_variants_that_were_promised():
    assert len(VARIANTS) >= 24
    assert {"lora", "full", "slora", "nlora", "inttune", "celora"} <= set(VARIANTS)


@cases
def test_output_is_unchanged_at_step_0_and_changed_by_training(name, kind):
    case = trial(name, kind)
    assert case.variant.identity_at_start
    close(case.at_start, case.at_base, atol=2e-6)
    assert (case.at_end - case.at_base).abs().max() > 1e-4


@peft_cases
def test_only_its_own_parameters_train_and_the_base_stays_bit_identical(name, kind):
    case = trial(name, kind)
    trained = {key for key in case.trainable if key.replace("base_model.model.", "") in case.pristine}
    assert case.trainable and not trained
    for key, value in case.model.get_base_model().state_dict().items():
        plain = key.replace(".base_layer", "")
        if plain in case.pristine:
            assert torch.equal(value, case.pristine[plain]), key
    found = {key.replace(".base_layer", "") for key in case.model.get_base_model().state_dict()}
    assert set(case.pristine) <= found


@cases
def test_count_is_the_real_number(name, kind):
    case = trial(name, kind)
    real = sum(p.numel() for p in case.model.parameters() if p.requires_grad)
    fresh = base(kind)
    shapes = linear_shapes(fresh).values() if name != "full" else [p.shape for p in fresh.parameters()]
    assert case.variant.count(list(shapes), case.config) == real


@pytest.mark.parametrize("name", [name for name, kind in PEFT_CASES if kind == "llama"])
def test_on_a_base_in_16_bit_the_same_parameters_train_and_in_float32(name):
    case = trial(name, "llama")
    context = Context(STEPS, 0, batches())
    model = case.variant.attach(base("llama").to(torch.bfloat16), case.config, context)
    trained = {key: p.dtype for key, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == set(case.trainable) and set(trained.values()) == {torch.float32}


@peft_cases
def test_merged_equals_unmerged_and_update_is_what_merging_adds(name, kind):
    case = trial(name, kind)
    merged = copy.deepcopy(case.model).merge_and_unload()
    close(logits(merged), case.at_end)
    weights = merged.state_dict()
    by_name = {update.name: update for update in case.updates}
    conv1d = kind == "gpt2"
    assert {name for name in by_name if not name.endswith(".bias")} == set(linear_shapes(base(kind)))
    for module in linear_shapes(base(kind)):
        delta = (weights[f"{module}.weight"] - case.pristine[f"{module}.weight"]).numpy()
        delta = delta.T if conv1d else delta
        np.testing.assert_allclose(by_name[module].matrix(), delta, atol=3e-6, err_msg=module)


@cases
def test_updates_alone_give_the_adapted_model(name, kind):
    case = trial(name, kind)
    close(logits(apply(base(kind), case.updates)), case.at_end)


@peft_cases
def test_stock_peft_loads_what_was_saved_on_the_pristine_base(name, kind):
    case = trial(name, kind)
    loaded = PeftModel.from_pretrained(base(kind), str(case.folder))
    close(logits(loaded), case.at_end)


@cases
def test_rank_is_as_claimed(name, kind):
    case = trial(name, kind)
    bound = RANK_BOUND.get(name, 4)
    for update in case.updates:
        if len(update.shape) != 2 or update.shape[0] == 512:
            continue
        values = np.linalg.svd(update.matrix(), compute_uv=False)
        rank = int(np.sum(values > 3e-5 * values[0])) if values[0] > 0 else 0
        assert not case.variant.low_rank or rank <= bound, (update.name, rank)
        if update.factored:
            assert case.variant.low_rank and update.B.shape[1] <= bound * (2 if name == "vera" else 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_config_goes_through_json(name):
    given = {"name": name, **options(name)}
    config = RunConfig.parse({"variant": given})
    again = RunConfig.parse_json(config.model_dump_json())
    assert again == config and type(again.variant) is VARIANTS[name].config
    for field, value in given.items():
        assert getattr(again.variant, field) == value


@pytest.mark.parametrize("name", VARIANTS)
def test_card_says_what_a_person_needs(name):
    card = VARIANTS[name].card
    assert card.sentence.endswith(".") and card.sentence.count(".") <= 2
    assert card.url.startswith("https://") and card.paper and card.frozen and card.equation and card.parameters
    assert VARIANTS[name].identity_at_start or "step 0" in card.notes


@pytest.mark.parametrize("name", VARIANTS)
def test_start_values_depend_on_the_seed_alone(name):
    if not supports(name, "llama"):
        pytest.skip("not for 16-bit bases")
    variant = VARIANTS[name]
    states = []
    for _ in range(2):
        torch.rand(7)  # moves the global generator, which must not matter
        model = variant.attach(base("llama"), variant.config(**options(name)), Context(STEPS, 5, batches()))
        states.append({key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad})
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize("name", VARIANTS)
def test_trains_on_a_bfloat16_base(name):
    if not supports(name, "llama"):
        pytest.skip("not for 16-bit bases")
    variant = VARIANTS[name]
    model = base("llama").to(torch.bfloat16)
    wrapped = variant.attach(model, variant.config(**options(name)), Context(STEPS, 0, batches()))
    before = logits(wrapped)
    train(variant, wrapped, steps=2)
    assert torch.isfinite(logits(wrapped)).all() and not torch.equal(before, logits(wrapped))
    assert all(np.isfinite(update.matrix()).all() for update in variant.updates(wrapped))


@pytest.fixture(scope="module")
def four_bit():
    """A fresh NF4 copy of the Llama checkpoint at every call."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from lora_playground.models.loading import keep_stored_layout

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)

    def load():
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint("llama"), quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
        ).eval()
        keep_stored_layout(model)
        return model

    return load


@pytest.mark.parametrize("name", [name for name in VARIANTS if 4 in VARIANTS[name].bits])
def test_takes_a_four_bit_base(name, four_bit, tmp_path):
    variant = VARIANTS[name]
    model = four_bit()
    at_base = logits(model)
    stored = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("proj.weight")}
    wrapped = variant.attach(model, variant.config(**options(name)), Context(STEPS, 0, batches(), bits=4))
    if variant.identity_at_start:
        close(logits(wrapped), at_base, atol=5e-6)
    train(variant, wrapped)
    after = logits(wrapped)
    assert (after - at_base).abs().max() > 1e-4
    state = wrapped.get_base_model().state_dict()
    for key, value in stored.items():
        assert torch.equal(state[key.replace(".weight", ".base_layer.weight")], value), key
    variant.save(wrapped, tmp_path)
    close(logits(PeftModel.from_pretrained(four_bit(), str(tmp_path))), after)
    for update in variant.updates(wrapped):
        module = wrapped.get_base_model().get_submodule(update.name)
        probe = torch.randn(3, update.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            moved = module(probe) - module.base_layer(probe)
        expected = probe.double() @ torch.from_numpy(update.matrix()).T
        close(moved.double(), expected, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in VARIANTS if 4 not in VARIANTS[name].bits])
def test_says_that_it_cannot_take_a_four_bit_base(name):
    variant = VARIANTS[name]
    with pytest.raises(ConfigError, match=r"4bit.*not allowed"):
        variant.check(variant.config(**options(name)), linear_shapes(base("llama")), 4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if 8 in VARIANTS[name].bits])
def test_takes_an_eight_bit_base_that_has_been_used(name, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    def load():
        settings = BitsAndBytesConfig(load_in_8bit=True)
        return AutoModelForCausalLM.from_pretrained(
            checkpoint("llama"), quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
        ).eval()

    variant, model = VARIANTS[name], load()
    at_base = logits(model)
    wrapped = variant.attach(model, variant.config(**options(name)), Context(STEPS, 0, batches(), bits=8))
    close(logits(wrapped), at_base, atol=5e-6)
    train(variant, wrapped)
    after = logits(wrapped)
    assert (after - at_base).abs().max() > 1e-4
    variant.save(wrapped, tmp_path)
    close(logits(PeftModel.from_pretrained(load(), str(tmp_path))), after)
    assert all(np.isfinite(update.matrix()).all() for update in variant.updates(wrapped))
