"""The fast step gives the lean pass's logits for every batch that it takes, and declines the others."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_playground.analysis.truncation import Truncation
from lora_playground.analysis.update import Update
from lora_playground.models import decoding
from lora_playground.models.decoding import Decoder, Row, RowUpdate
from lora_playground.models.fused import pairs, prepare
from lora_playground.models.linear import linear_shape
from lora_playground.models.llama_forward import Way
from lora_playground.models.placed_update import named_modules
from tests.checkpoints import make_checkpoint

PROMPTS = ([5, 9, 3], [7, 2, 8, 1, 6, 4, 11], [12], [3, 3, 3, 3])
TOKENS = 9


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    more = {"attention_bias": True} if request.param == "qwen2" else {}
    folder = make_checkpoint(tmp_path_factory.mktemp(request.param), request.param, seed=3, **more)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 4.0
            elif parameter.shape[0] != model.config.hidden_size:
                parameter.normal_(0, 0.3)  # biases, which begin as zeros
            parameter.copy_(parameter.bfloat16())  # as they are stored, so that they can be packed
    return Decoder(model, AutoTokenizer.from_pretrained(folder), settled=True)


def adapter(decoder: Decoder, rank: int, only: tuple[str, ...] = ()) -> RowUpdate:
    noise = np.random.default_rng(rank)
    made = []
    for name, module in named_modules(decoder.model).items():
        shape = linear_shape(module)
        if shape and "lm_head" not in name and (not only or name.endswith(only)):
            made.append(
                Update(name, B=noise.normal(0, 0.2, (shape[0], rank)), A=noise.normal(0, 0.2, (rank, shape[1])))
            )
    return RowUpdate(decoder.adapter(made))


def compositions(decoder: Decoder) -> dict[str, list[RowUpdate | None]]:
    small, wide = adapter(decoder, 3), adapter(decoder, 50)
    attention, few = adapter(decoder, 2, ("q_proj", "v_proj")), adapter(decoder, 4, ("up_proj", "o_proj"))
    half, twice = RowUpdate(small.adapter, 0.5), RowUpdate(small.adapter, 2.0)
    return {
        "base": [None],
        "base and adapted": [None, small],
        "adapted alone": [wide],
        "strengths": [None, half, twice],
        "other ranks and modules": [None, small, wide, attention],
        "not all modules": [few, None, RowUpdate(attention.adapter, 0.7)],
        "cut": [None, RowUpdate(small.adapter, 1.0, Truncation("top", k=1))],
    }


def decode(decoder: Decoder, updates: list[Any]) -> tuple[list[torch.Tensor], list[list[int]], int]:
    """Logits of every step, the replies, and how many steps were fast ones. A row leaves in mid-way."""
    rows = [Row(PROMPTS[i], update, max_new_tokens=TOKENS - 3 * (i == 1)) for i, update in enumerate(updates)]
    seen, fast = [], 0
    with decoder.evaluating():
        batch = decoder.batch()
        batch.add(rows)
        while batch.rows:
            seen.append(batch.read().clone())
            fast += batch._step is not None
            batch._settle(seen[-1])
    return seen, [row.tokens for row in rows], fast


@pytest.mark.parametrize("way", ["whole", "spread", "fused"])
def test_fast_steps_give_the_same_logits(decoder: Decoder, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder.lean is not None
    if way == "fused":
        assert prepare(wait=120), "the kernel could not be compiled"
        assert decoder.lean.fused is not None
    monkeypatch.setattr(decoder.lean, "way", way)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(decoder.lean.fused, "threads", 4)
    for name, updates in compositions(decoder).items():
        got, replies, fast = decode(decoder, updates)
        with monkeypatch.context() as other:
            other.setattr(decoding, "step", lambda *given: None)
            expected, wanted, none = decode(decoder, updates)
        assert fast >= TOKENS - 2 and none == 0, name
        assert replies == wanted, name
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_rows_that_join_read_their_prompts_beside_the_others(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(wait=120) and decoder.lean is not None
    updates = [None, adapter(decoder, 3), RowUpdate(adapter(decoder, 5).adapter, 0.5), None]

    def joined() -> list[list[int]]:
        rows = [Row(PROMPTS[i], update, max_new_tokens=TOKENS) for i, update in enumerate(updates)]
        with decoder.evaluating():
            batch = decoder.batch()
            for row in rows:
                batch.add([row])
                batch.step()
                batch.step()
            while batch.rows:
                batch.step()
        return [row.tokens for row in rows]

    monkeypatch.setattr(decoder.lean.fused, "threads", 2)
    monkeypatch.setattr(decoder.lean, "way", "whole")
    expected = joined()
    monkeypatch.setattr(decoder.lean, "way", "fused")
    assert joined() == expected
    monkeypatch.setattr(decoding, "TOKENS", 3)  # longer prompts are read as one matrix
    assert joined() == expected


def test_compiled_code_that_differs_is_not_used(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(wait=120) and decoder.lean is not None and decoder.lean.fused is not None
    for wrong, used in ((1.0, True), (1.5, False)):
        monkeypatch.setattr(decoder, "_agreed", None)
        monkeypatch.setattr(decoder.lean.fused, "norms", decoder.lean.fused.norms * np.float32(wrong))
        assert decoder._ready(0.0) is used
        decoder.choose_threads()
        assert used or (decoder.lean.way != "fused" and not decoder.outdated)


def test_a_token_beyond_the_vocabulary_is_an_error(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(wait=120) and decoder.lean is not None
    monkeypatch.setattr(decoder.lean, "way", "fused")
    with pytest.raises(IndexError, match="is none of the model's"):
        decoder.next_logits([[5, 10**6]], [None])


def test_what_is_no_plain_product_is_declined(decoder: Decoder) -> None:
    noise = np.random.default_rng(0)
    names = dict(decoder.model.named_parameters())
    dense = [Update(name, dense=noise.normal(0, 0.05, tuple(p.shape))) for name, p in names.items() if "norm" in name]
    _, _, fast = decode(decoder, [None, RowUpdate(decoder.adapter(dense))])
    assert fast <= 3  # only when the base is alone: the adapted row, the second, has left before


def test_only_what_16_bit_hold_is_taken() -> None:
    noise = torch.Generator().manual_seed(0)
    W = torch.randn(48, 40, generator=noise) * 0.05
    assert pairs(W) is None, "float32 would be rounded"
    assert pairs(W[:47].bfloat16().float()) is None, "blocks of sixteen outputs"
    assert pairs(W[:, :39].bfloat16().float()) is None, "four inputs at a time"
    stored = W.bfloat16().float()
    packed = pairs(stored)
    assert packed is not None
    halves = np.stack([packed << 16, packed & np.uint32(0xFFFF0000)], 1).view(np.float32)  # (blocks, halves, in, 8)
    np.testing.assert_array_equal(halves.transpose(0, 1, 3, 2).reshape(48, 40), stored.numpy())


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_products_of_some_outputs(rows: int) -> None:
    kernel = pytest.importorskip("lora_playground.models.kernel")
    noise = torch.Generator().manual_seed(rows)
    W, x = torch.randn(80, 40, generator=noise).bfloat16().float(), torch.randn(rows, 40, generator=noise)
    packed = pairs(W)
    assert packed is not None
    y = np.zeros((rows, 90), np.float32)
    kernel.product(packed, x.numpy(), y, 1, 4)
    expected = np.zeros_like(y)
    expected[:, 16:64] = (x.double() @ W.t().double())[:, 16:64].numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_the_exponential_is_one() -> None:
    kernel = pytest.importorskip("lora_playground.models.kernel")
    x = np.concatenate([np.linspace(-87, 87, 4001), [0.0, -1e-30, 1e-7]]).astype(np.float32)
    got = np.array([kernel.exponential(one) for one in x])
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64)), rtol=3e-7)
    assert kernel.exponential(np.float32(-np.inf)) < 1e-37
