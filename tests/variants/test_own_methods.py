"""The invariants of SLoRA, NLoRA, IntTune and CE-LoRA, from their papers' equations, against dense arithmetic."""

import json
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from trials import base, batches, checkpoint, logits, options, tokens, train

from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context
from lora_playground.variants.celora_rows import kept_share, rows_kept
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers
from lora_playground.variants.tuners.celora import CeLoraConfig, CeLoraLayer
from lora_playground.variants.tuners.nystrom import NystromConfig, NystromLayer

LLAMA_7B = [(4096, 4096)] * 4 * 32 + [(11008, 4096)] * 2 * 32 + [(4096, 11008)] * 32


def linear(m=24, n=40, seed=0):
    torch.manual_seed(seed)
    layer = nn.Linear(n, m, bias=True)
    return layer.requires_grad_(False)


def nystrom(start, r=4, alpha=8.0, core_only=False, m=24, n=40, layer=None):
    wrapped = NystromLayer(layer if layer is not None else linear(m, n))
    wrapped._active_adapter = [ADAPTER]
    wrapped.add(ADAPTER, NystromConfig(r=r, alpha=alpha, start=start, core_only=core_only), "m")
    return wrapped


def celora(ratio, q=None, r=4, m=24, n=40, amm=True, double_lora=True, seed=0):
    wrapped = CeLoraLayer(linear(m, n, seed))
    wrapped._active_adapter = [ADAPTER]
    config = CeLoraConfig(r=r, alpha=8.0, ratio_other=ratio, frozen_rank=q, amm=amm, double_lora=double_lora)
    wrapped.add(ADAPTER, config, "q_proj")
    with torch.no_grad():
        wrapped.celora_B[ADAPTER].normal_(std=0.1)
    return wrapped


def gradients(layer, x, dy):
    """(dx, dA, dB, y) of a layer for an output gradient dy."""
    x = x.clone().requires_grad_(True)
    layer.zero_grad(set_to_none=True)
    y = layer(x)
    y.backward(dy)
    return x.grad, layer.celora_A[ADAPTER].grad.clone(), layer.celora_B[ADAPTER].grad.clone(), y.detach()


def test_slora_starts_bitwise_at_the_base_with_gradient_in_b_alone():
    layer, x = nystrom("kaiming"), torch.randn(5, 40)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer(x).square().sum().backward()
    assert layer.nystrom_A[ADAPTER].grad.abs().max() == 0
    assert layer.nystrom_N[ADAPTER].grad.abs().max() == 0
    assert layer.nystrom_B[ADAPTER].grad.abs().max() > 0


def test_nlora_as_released_starts_from_the_leading_blocks_of_w():
    layer = nystrom("released")
    w, s, r = layer.base_layer.weight, 8.0 / 4, 4
    expected = s * w[:, :r] @ w[:r, :r] @ w[:r]
    torch.testing.assert_close(layer.get_delta_weight(ADAPTER), expected)
    x = torch.randn(5, 40)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ expected.T, atol=1e-5, rtol=1e-4)
    assert (layer(x) - layer.base_layer(x)).abs().max() > 1e-4


@pytest.mark.parametrize("start", ["residual", "pinv_residual"])
def test_residual_modes_leave_the_output_as_it_was(start):
    layer, x = nystrom(start), torch.randn(5, 40)
    torch.testing.assert_close(layer(x), layer.base_layer(x), atol=1e-5, rtol=1e-5)
    assert layer.get_delta_weight(ADAPTER).abs().max() < 1e-5


def test_pseudo_inverse_start_reproduces_the_leading_rows_and_columns():
    layer = nystrom("pinv_residual", r=6)
    b, n, a = (getattr(layer, f"nystrom_{part}")[ADAPTER] for part in "BNA")
    product, w = b @ n @ a, layer.base_layer.weight
    torch.testing.assert_close(product[:6], w[:6], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(product[:, :6], w[:, :6], atol=1e-4, rtol=1e-3)


def test_pseudo_inverse_start_is_exact_for_a_matrix_of_that_rank():
    base_layer = linear()
    torch.manual_seed(1)
    with torch.no_grad():
        base_layer.weight.copy_(torch.randn(24, 4) @ torch.randn(4, 40))
    layer = nystrom("pinv_residual", layer=base_layer)
    b, n, a = (getattr(layer, f"nystrom_{part}")[ADAPTER] for part in "BNA")
    assert (b @ n @ a - base_layer.weight).norm() / base_layer.weight.norm() < 1e-4


def test_inttune_leaves_a_and_b_bit_identical():
    variant = VARIANTS["inttune"]
    model = variant.attach(base("llama"), variant.config(rank=4), Context(4, 0))
    before = {k: v.clone() for k, v in model.state_dict().items() if "nystrom_A" in k or "nystrom_B" in k}
    core = {k: v.clone() for k, v in model.state_dict().items() if "nystrom_N" in k}
    train(variant, model)
    after = model.state_dict()
    assert before and all(torch.equal(after[key], value) for key, value in before.items())
    assert all(not torch.equal(after[key], value) for key, value in core.items())


def test_counts_on_llama_2_7b_are_the_papers():
    config = {name: VARIANTS[name].config for name in ("lora", "slora", "inttune")}
    assert VARIANTS["lora"].count(LLAMA_7B, config["lora"](rank=128)) == 319_815_680
    for rank, extra in ((64, 917_504), (128, 3_670_016), (256, 14_680_064)):
        assert VARIANTS["inttune"].count(LLAMA_7B, config["inttune"](rank=rank)) == extra
    with_core = VARIANTS["slora"].count(LLAMA_7B, config["slora"](rank=128))
    assert with_core - 319_815_680 == 3_670_016


def test_bases_other_than_the_embedded_one_get_the_published_rates():
    published = {"nlora": 2e-4, "inttune": 2e-4, "slora": 2e-4, "lora": 2e-4, "pissa": 2e-5}
    for name, rate in published.items():
        assert VARIANTS[name].rate("HuggingFaceTB/SmolLM2-135M") == rate, name
        assert VARIANTS[name].rate("/some/folder") == rate, name


@pytest.mark.parametrize("name", ["slora", "nlora", "inttune", "celora"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_itself_saves_and_loads_the_own_format(name, kind, tmp_path):
    variant = VARIANTS[name]
    model = variant.attach(base(kind), variant.config(**options(name)), Context(4, 0, batches()))
    train(variant, model)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["peft_type"] == ("CELORA" if name == "celora" else "NYSTROM")
    assert type(PeftConfig.from_pretrained(str(tmp_path))).__name__ in ("CeLoraConfig", "NystromConfig")
    loaded = PeftModel.from_pretrained(base(kind), str(tmp_path))
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6, rtol=1e-5)


def test_get_peft_model_takes_the_config_by_itself():
    model = get_peft_model(
        base("qwen3"), NystromConfig(task_type="CAUSAL_LM", r=4, start="kaiming", target_modules=["q_proj"])
    )
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 6 and all("q_proj.nystrom_" in name for name in names)


# CE-LoRA ------------------------------------------------------------------------------------------------------------


def test_ratio_one_gives_the_exact_gradient():
    layer = celora(1.0)
    x, dy = torch.randn(11, 40), torch.randn(11, 24)
    dx, da, db, y = gradients(layer, x, dy)
    w = layer.base_layer.weight
    delta = layer.get_delta_weight(ADAPTER).detach()
    torch.testing.assert_close(dx, dy @ (w + delta), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y, x @ (w + delta).T + layer.base_layer.bias, atol=1e-5, rtol=1e-4)
    s, a, b = 2.0, layer.celora_A[ADAPTER].detach(), layer.celora_B[ADAPTER].detach()
    torch.testing.assert_close(da, s * b.T @ dy.T @ x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(db, s * dy.T @ x @ a.T, atol=1e-4, rtol=1e-4)


def test_gradcheck_at_ratio_one():
    layer = celora(1.0, m=5, n=6, r=2).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def observed(layer, dy):
    """Lets the layer choose its rows from one backward pass."""
    gradients(layer, torch.randn(dy.shape[0], layer.in_features), dy)
    layer.refresh()
    return layer.approximation


def test_a_split_of_full_rank_is_exact_whatever_rows_are_kept():
    layer = celora(0.25, q=24)
    dy = torch.randn(11, 24)
    assert observed(layer, dy).rows.shape == (6,)
    dx, *_ = gradients(layer, torch.randn(11, 40), dy)
    torch.testing.assert_close(
        dx, dy @ (layer.base_layer.weight + layer.get_delta_weight(ADAPTER)), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("double_lora", [True, False])
def test_the_error_is_that_of_the_dropped_rows_alone(double_lora):
    layer = celora(0.5, q=3, double_lora=double_lora)
    dy = torch.randn(11, 24)
    state = observed(layer, dy)
    w = layer.base_layer.weight
    rest = w - state.B0 @ state.A0 if double_lora else w
    assert (state.B0 is None) == (not double_lora)
    dx, *_ = gradients(layer, torch.randn(11, 40), dy)
    exact = dy @ (w + layer.get_delta_weight(ADAPTER).detach())
    dropped = sorted(set(range(24)) - set(state.rows.tolist()))
    torch.testing.assert_close(exact - dx, dy[:, dropped] @ rest[dropped], atol=1e-5, rtol=1e-3)
    assert (exact - dx).norm() > 0.01


def test_rows_are_chosen_by_the_norms_of_gradient_columns_times_those_of_rows():
    layer = celora(0.25, double_lora=False)
    scale = torch.ones(24)
    scale[[3, 7, 20, 21, 1, 9]] = 50.0
    dy = torch.randn(64, 24) * scale
    state = observed(layer, dy)
    scores = dy.norm(dim=0) * layer.base_layer.weight.norm(dim=1)
    assert state.rows.tolist() == sorted(scores.topk(6).indices.tolist()) == [1, 3, 7, 9, 20, 21]


def test_the_split_is_the_truncated_svd_of_w():
    layer = celora(0.5, q=5)
    state, w = layer.approximation, layer.base_layer.weight
    u, s, vt = torch.linalg.svd(w)
    torch.testing.assert_close(state.B0 @ state.A0, (u[:, :5] * s[:5]) @ vt[:5], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(state.B0.norm(dim=0), state.A0.norm(dim=1), rtol=1e-4)


def test_double_lora_lowers_the_error_of_equal_rows():
    torch.manual_seed(0)
    dy = torch.randn(200, 24)
    errors = {}
    for double in (True, False):
        layer = celora(0.55, q=6, double_lora=double)
        with torch.no_grad():  # a matrix with a few strong directions, as trained ones have
            layer.base_layer.weight.add_(torch.randn(24, 2) @ torch.randn(2, 40))
        if double:
            layer.approximation.split(layer.full_weight(), 6)
        observed(layer, dy)
        dx, *_ = gradients(layer, torch.randn(200, 40), dy)
        exact = dy @ (layer.base_layer.weight + layer.get_delta_weight(ADAPTER))
        errors[double] = float((dx - exact).norm() / exact.norm())
    assert errors[True] < errors[False]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_model_forward_and_last_layer_gradients_are_plain_loras(dropout):
    """At equal rank and equal factors, only gradients that came through an approximated layer may differ."""
    ids = tokens(5, rows=3, length=16)
    grads, outputs = {}, {}
    for name in ("lora", "celora"):
        variant = VARIANTS[name]
        given = (
            {} if name == "lora" else {"ratio_attention": 0.3, "ratio_mlp": 0.3, "refresh_every": 2, "frozen_rank": 3}
        )
        model = variant.attach(base("llama"), variant.config(rank=4, dropout=dropout, **given), Context(4, 0))
        generator = torch.Generator().manual_seed(0)
        for _, layer in tuner_layers(model):
            prefix = "celora" if name == "celora" else "lora"
            for part in "AB":
                held = getattr(layer, f"{prefix}_{part}")[ADAPTER]
                tensor = held if name == "celora" else held.weight
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        model.train()
        for step in (1, 2):
            model.zero_grad()
            torch.manual_seed(11)
            out = model(input_ids=ids, labels=ids)
            out.loss.backward()
            if step == 1:
                variant.after_step(model, 1)
        outputs[name] = out.logits.detach()
        grads[name] = {
            module: [
                (
                    getattr(layer, f"{name}_{part}")[ADAPTER]
                    if name == "celora"
                    else getattr(layer, f"lora_{part}")[ADAPTER].weight
                ).grad
                for part in "AB"
            ]
            for module, layer in tuner_layers(model)
        }
    torch.testing.assert_close(outputs["celora"], outputs["lora"], atol=1e-5, rtol=1e-4)
    last, first = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"
    for ours, theirs in zip(grads["celora"][last], grads["lora"][last]):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    gap = (grads["celora"][first][0] - grads["lora"][first][0]).norm() / grads["lora"][first][0].norm()
    assert 1e-3 < gap < 1.5


def test_rows_are_chosen_by_optimiser_steps_also_under_checkpointing():
    variant = VARIANTS["celora"]
    model = variant.attach(base("llama"), variant.config(rank=4, refresh_every=3, frozen_rank=4), Context(9, 0))
    model.train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layer = dict(tuner_layers(model))["model.layers.0.mlp.up_proj"]
    assert layer.approximation.keep == math.ceil(0.35 * 64)  # 0.65 less the tilt, the first of two layers
    kept = []
    for step in range(1, 8):
        ids = tokens(step)
        model(input_ids=ids, labels=ids).loss.backward()
        variant.after_step(model, step)
        kept.append(layer.approximation.rows)
    assert kept[0] is not None  # chosen after the first step, which was exact
    assert kept[1] is kept[0] and kept[2] is not kept[0]  # anew at 3 and 6
    assert kept[4] is kept[2] and kept[5] is not kept[2] and kept[6] is kept[5]


def test_a_module_stays_exact_where_fewer_rows_would_save_no_arithmetic():
    options = VARIANTS["celora"].config()  # 128 directions of W stay exact
    small, large = (256, 256), (2048, 2048)
    assert rows_kept("0.v_proj", small, options, 8) == 256 and rows_kept("0.v_proj", large, options, 8) == 1127
    few = VARIANTS["celora"].config(frozen_rank=8)
    assert rows_kept("0.v_proj", small, few, 8) == 141
    always = VARIANTS["celora"].config(only_where_it_saves=False)
    assert rows_kept("0.v_proj", small, always, 8) == 141


@pytest.mark.parametrize("side", [64, 520])  # the second is split by a randomised SVD, whose draws must not count
def test_under_one_seed_celora_starts_where_lora_does(side):
    starts = {}
    for name in ("lora", "celora"):
        model = torch.nn.ModuleDict({part: torch.nn.Linear(side, side) for part in ("v_proj", "up_proj", "q_proj")})
        torch.manual_seed(3)
        settings = (
            LoraConfig(r=4, target_modules=list(model))
            if name == "lora"
            else CeLoraConfig(r=4, target_modules=list(model))
        )
        wrapped = get_peft_model(model, settings)
        layers = dict(tuner_layers(wrapped))
        starts[name] = {
            part: layer.celora_A[ADAPTER] if name == "celora" else layer.lora_A[ADAPTER].weight
            for part, layer in layers.items()
        }
    assert starts["lora"].keys() == starts["celora"].keys() == {"v_proj", "up_proj", "q_proj"}
    for part, start in starts["lora"].items():
        assert torch.equal(starts["celora"][part], start), part


def test_switches_turn_either_part_off():
    exact = celora(0.2, amm=False)
    assert exact.approximation.exact and exact.approximation.B0 is None
    assert celora(0.2, double_lora=False).approximation.B0 is None
    assert celora(0.2, r=16).approximation.B0.shape == (24, 14)  # 7/8 of the rank, as released
    kinds = {"self_attn.v_proj": 0.55, "self_attn.o_proj": 0.55, "mlp.up_proj": 0.65, "mlp.down_proj": 0.65,
             "self_attn.q_proj": 1.0, "mlp.gate_proj": 1.0, "attn.c_proj": 0.55, "mlp.c_proj": 0.65}  # fmt: skip
    assert {kind: kept_share(f"h.0.{kind}", CeLoraConfig()) for kind in kinds} == kinds


def test_tilt_keeps_more_in_upper_layers_and_as_much_in_all():
    plain, tilted = CeLoraConfig(depth=7), CeLoraConfig(depth=7, tilt=0.3)
    for kind, share in (("self_attn.v_proj", 0.55), ("mlp.down_proj", 0.65)):
        names = [f"base_model.model.model.layers.{layer}.{kind}" for layer in range(7)]
        assert [kept_share(name, plain) for name in names] == [share] * 7
        got = [kept_share(name, tilted) for name in names]
        assert got == pytest.approx([share + 0.1 * step for step in (-3, -2, -1, 0, 1, 2, 3)])
    assert kept_share("model.layers.0.self_attn.q_proj", tilted) == 1.0  # exact everywhere
    assert kept_share("v_proj", tilted) == kept_share("layers.5.v_proj", CeLoraConfig(tilt=0.3)) == 0.55
    steep = CeLoraConfig(depth=2, tilt=1.0)
    assert [kept_share(f"h.{layer}.mlp.c_proj", steep) for layer in (0, 1)] == [0.05, 1.0]
    assert kept_share("model.layers.0.mlp.up_proj", CeLoraConfig(depth=7, tilt=0.3, amm=False)) == 1.0


def test_pissa_starts_as_pefts_own_does():
    """Our frozen start against PEFT's rewritten W: the same function, and the same A and B."""
    variant = VARIANTS["pissa"]
    ours = variant.attach(base("llama"), variant.config(rank=4, alpha=6.0), Context(4, 0))
    theirs = get_peft_model(
        base("llama"),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6.0, target_modules="all-linear", init_lora_weights="pissa"),
    )
    for (name, mine), (_, other) in zip(tuner_layers(ours), tuner_layers(theirs), strict=True):
        torch.testing.assert_close(mine.lora_A[ADAPTER].weight, other.lora_A[ADAPTER].weight, msg=name)
        torch.testing.assert_close(mine.lora_B[ADAPTER].weight, other.lora_B[ADAPTER].weight, msg=name)
        assert not torch.equal(mine.get_base_layer().weight, other.get_base_layer().weight)
    assert checkpoint("llama").is_dir()


@pytest.mark.parametrize("mode", ["residual", "pinv_residual"])
@pytest.mark.parametrize("name", ["nlora", "inttune"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_subtracted_start_leaves_a_16_bit_base_as_it_was(name, mode, kind):
    model = base("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)  # as large as trained weights, so that the start's rounding would be seen
    variant = VARIANTS[name]
    wrapped = variant.attach(model.to(kind), variant.config(rank=8, alpha=16.0, mode=mode), Context(4, 0)).eval()
    for _, layer in tuner_layers(wrapped):
        x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0)).to(kind)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), layer.base_layer(x), atol=1e-3, rtol=1e-3)
            assert layer.get_delta_weight(ADAPTER).abs().max() < 1e-5
