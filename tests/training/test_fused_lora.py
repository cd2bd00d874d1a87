"""The fast passes are equal to the libraries' own, forwards and backwards."""

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from torch import nn

from lora_playground.training.attention import Segments, segment_attention
from lora_playground.training.fused_lora import fused_lora
from lora_playground.training.loss import block_mask


def _segments(seed=0, rows=3, length=200):
    rng = np.random.default_rng(seed)
    made = np.zeros((rows, length), dtype=np.int64)
    for row in made:
        start, number = 0, 1
        while start < length - 20:
            size = int(rng.integers(1, 90))
            row[start : min(start + size, length - 7)] = number
            start, number = start + size, number + 1
    return made


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("window", [None, 12])
def test_segment_attention_equals_masked_attention(heads, window):
    torch.manual_seed(0)
    layout = _segments()
    rows, length = layout.shape
    q, k, v = (torch.randn(rows, count, length, 16, requires_grad=True) for count in (heads[0], heads[1], heads[1]))
    used = torch.from_numpy(layout > 0)[:, :, None, None]
    out, _ = segment_attention(
        nn.Module(), q, k, v, None, scaling=0.3, sliding_window=window, segments=Segments(layout)
    )
    assert out.shape == (rows, length, heads[0], 16)
    grads = torch.autograd.grad((out * used).square().sum(), (q, k, v))
    mask = block_mask(torch.from_numpy(layout), torch.float32)
    if window:
        distance = torch.arange(length)[:, None] - torch.arange(length)[None]
        mask = mask.masked_fill(distance >= window, float("-inf"))
    repeat = heads[0] // heads[1]
    wide = [tensor.repeat_interleave(repeat, dim=1) for tensor in (k, v)]
    expected = nn.functional.scaled_dot_product_attention(q, *wide, attn_mask=mask, scale=0.3).transpose(1, 2)
    wanted = torch.autograd.grad((expected * used).square().sum(), (q, k, v))
    assert torch.allclose(out * used, expected * used, atol=1e-5)
    for one, other in zip(grads, wanted):
        assert torch.allclose(one, other, atol=1e-4)


def test_segments_hold_every_token_once():
    layout = _segments(seed=3)
    segments = Segments(layout)
    flat = layout.ravel()
    assert np.array_equal(np.sort(segments.outside.numpy()), np.flatnonzero(flat == 0))
    inside = np.flatnonzero(flat > 0)
    assert np.array_equal(segments.gather.numpy()[segments.back.numpy()[inside]], inside)
    assert sum(count * size for count, size in segments.groups) - len(segments.empty) == len(inside)


def _adapted(folder, **options):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("qwen"), "qwen2", attention_bias=True)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_fused_lora_gives_pefts_values_and_gradients(folder, bfloat16):
    model = _adapted(folder)
    if bfloat16:
        for name, parameter in model.named_parameters():
            if "lora" not in name:
                parameter.data = parameter.data.bfloat16()
    ids = torch.arange(20)[None]
    results = []
    for enabled in (False, True):
        with fused_lora(model, enabled) as count, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            assert count == (14 if enabled else 0)
            loss = model(input_ids=ids, labels=ids).loss
        model.zero_grad()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    for one, other in zip(*results):
        assert one.dtype == other.dtype
        scale = float(one.abs().max())
        assert float((one - other).abs().max()) <= (3e-2 if bfloat16 else 1e-5) * scale


def test_fused_lora_leaves_pefts_layers_as_they_were(folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = _adapted(folder)
    ids = torch.arange(9)[None]
    with fused_lora(model):
        inside = model(ids).logits
        with model.disable_adapter():
            base = model(ids).logits
        model.save_pretrained(tmp_path)
    assert not any("forward" in vars(module) for module in model.modules())
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
    assert torch.allclose(loaded(ids).logits, inside, atol=1e-5)
    assert torch.allclose(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, base, atol=1e-6)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_not_plain_is_left_alone(folder, options):
    with fused_lora(_adapted(folder, **options)) as count:
        assert count == 0
