"""What variants do along the steps: budgets, two learning rates, corrected gradients, and starts from data."""

import itertools

import numpy as np
import pytest
import torch
from trials import base, batches, logits, tokens, train

from lora_playground.errors import ConfigError
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers


def attached(name, steps=20, seed=0, **options):
    variant = VARIANTS[name]
    return variant, variant.attach(base("llama"), variant.config(**options), Context(steps, seed, batches()))


def ranks(variant, model):
    return [int(np.sum(np.abs(update.A).max(axis=1) > 0)) for update in variant.updates(model)]


def test_adalora_prunes_to_its_rank_on_average_and_stays_there():
    variant, model = attached("adalora", steps=20, rank=4)
    start = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    train(variant, model, steps=3, rate=5e-3)
    assert set(ranks(variant, model)) == {6}
    seen = []
    optimiser = torch.optim.AdamW(variant.parameter_groups(model, 5e-3, 0.0))
    for step in range(4, 21):
        ids = tokens(step)
        model(input_ids=ids, labels=ids).loss.backward()
        variant.after_backward(model, step)
        optimiser.step()
        variant.after_step(model, step)
        optimiser.zero_grad()
        seen.append(np.mean(ranks(variant, model)))
    assert all(late <= early for early, late in itertools.pairwise(seen))
    assert seen[-1] == pytest.approx(4, abs=0.5) and seen[-6] == seen[-1] and min(seen) > 0
    assert {name: p.shape for name, p in model.named_parameters() if p.requires_grad} == start


def test_adalora_keeps_pruned_triplets_pruned_when_it_takes_up_late():
    variant, model = attached("adalora", steps=12, rank=4)
    train(variant, model, steps=10, rate=5e-3)
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, ranks(variant, model)
    variant, fresh = attached("adalora", steps=12, rank=4)
    fresh.load_state_dict(state)
    optimiser = torch.optim.AdamW(variant.parameter_groups(fresh, 5e-3, 0.0))
    ids = tokens(3)
    fresh(input_ids=ids, labels=ids).loss.backward()
    variant.after_backward(fresh, 11)
    optimiser.step()
    variant.after_step(fresh, 11)
    assert ranks(variant, fresh) == before and np.mean(before) < 6


def test_adalora_draws_its_factors_towards_orthonormal_ones():
    gaps = {}
    for weight in (0.0, 5.0):
        variant, model = attached("adalora", steps=30, rank=4, orthogonality=weight)
        train(variant, model, steps=20, rate=5e-3)
        a = [layer.lora_A[ADAPTER] for _, layer in tuner_layers(model)]
        gaps[weight] = sum(float(torch.linalg.norm(p @ p.T - torch.eye(len(p)))) for p in a)
    assert gaps[5.0] < 0.9 * gaps[0.0]


def test_loraplus_gives_b_the_higher_rate():
    variant, model = attached("loraplus", ratio=16.0)
    a, b = variant.parameter_groups(model, 1e-3, 0.1)
    assert (a["lr"], b["lr"], b["weight_decay"]) == (1e-3, 16e-3, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(".lora_A." in names[id(p)] for p in a["params"])
    assert all(".lora_B." in names[id(p)] for p in b["params"])
    assert len(a["params"]) == len(b["params"]) == 14


def test_lorafa_steps_b_towards_what_full_fine_tuning_would_do():
    """With the corrected gradient, s·(grad B)·A is the projection of s²-free ∇W onto the rows of A."""
    variant, model = attached("lorafa", rank=4, alpha=6.0)
    ids = tokens(2)
    model(input_ids=ids, labels=ids).loss.backward()
    name, layer = next(iter(tuner_layers(model)))
    raw = layer.lora_B[ADAPTER].weight.grad.clone()
    variant.after_backward(model, 1)
    a, s = layer.lora_A[ADAPTER].weight.double(), 1.5
    full = base("llama")
    full(input_ids=ids, labels=ids).loss.backward()
    gradient = full.get_submodule(name).weight.grad.double()
    torch.testing.assert_close(raw.double(), s * gradient @ a.T, atol=1e-6, rtol=1e-3)
    projection = gradient @ torch.linalg.pinv(a) @ a
    step = s * layer.lora_B[ADAPTER].weight.grad.double() @ a
    torch.testing.assert_close(step, projection, atol=1e-6, rtol=1e-3)
    assert not layer.lora_A[ADAPTER].weight.requires_grad


def test_eva_starts_from_the_main_directions_of_the_inputs():
    _, model = attached("eva", rank=4)
    name, layer = "model.layers.0.self_attn.q_proj", dict(tuner_layers(model))["model.layers.0.self_attn.q_proj"]
    plain, seen = base("llama"), []
    plain.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, 1)))
    for batch in batches():
        plain(input_ids=batch["input_ids"])
    x = torch.cat(seen).double()
    best = torch.linalg.svdvals(x)[:4].square().sum()
    q = torch.linalg.qr(layer.lora_A[ADAPTER].weight.double().T).Q
    random = torch.linalg.qr(torch.randn(32, 4, generator=torch.Generator().manual_seed(0)).double()).Q
    # The incremental SVD explains nearly what the exact one does.
    assert 0.93 * best < (x @ q).square().sum() <= 1.0001 * best
    assert (x @ random).square().sum() < 0.8 * best
    assert torch.equal(layer.lora_B[ADAPTER].weight, torch.zeros_like(layer.lora_B[ADAPTER].weight))


def test_loraga_starts_in_the_gradients_leading_directions():
    _, model = attached("loraga", rank=4)
    name = "model.layers.0.self_attn.q_proj"
    layer = dict(tuner_layers(model))[name]
    full = base("llama").train()
    for batch in batches():
        full(
            input_ids=batch["input_ids"], labels=batch["labels"], attention_mask=batch["attention_mask"]
        ).loss.backward()
    u, _, vt = torch.linalg.svd(full.get_submodule(name).weight.grad.double())
    for mine, theirs in ((layer.lora_B[ADAPTER].weight.T, u[:, :8].T), (layer.lora_A[ADAPTER].weight, vt[:8])):
        inside = torch.linalg.norm(mine.double() @ theirs.T @ theirs) / torch.linalg.norm(mine.double())
        assert inside > 0.98


@pytest.mark.parametrize("name", ["eva", "loraga"])
def test_starts_from_data_say_when_there_is_none(name):
    variant = VARIANTS[name]
    with pytest.raises(ConfigError, match="training batches"):
        variant.attach(base("llama"), variant.config(rank=4), Context(5, 0))


def test_conv1d_models_are_refused_by_variants_that_cannot_take_them():
    for variant in VARIANTS.values():
        if not getattr(variant, "conv1d", True):
            with pytest.raises(ConfigError, match="Conv1D"):
                variant.attach(base("gpt2"), variant.config(), Context(5, 0, batches()))


def test_full_can_leave_embeddings_alone():
    variant = VARIANTS["full"]
    model = variant.attach(base("llama"), variant.config(embeddings=False), Context())
    before = logits(model)
    train(variant, model)
    names = {update.name for update in variant.updates(model)}
    assert "model.embed_tokens.weight" not in names and "model.layers.0.mlp.up_proj" in names
    assert torch.equal(model.get_input_embeddings().weight, base("llama").get_input_embeddings().weight)
    assert not torch.equal(before, logits(model))
