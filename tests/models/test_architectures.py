"""Models of many architectures answer as stock transformers does, alone or beside others, with an update or none."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint, make_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from lora_playground.analysis.update import Update
from lora_playground.config import ModelConfig
from lora_playground.models.catalogue import module_shapes
from lora_playground.models.decoding import Decoder, Row, RowUpdate
from lora_playground.models.linear import oriented
from lora_playground.models.loading import load_base
from lora_playground.models.remarks import rereads
from lora_playground.variants import get_variant
from lora_playground.variants.base import Context
from lora_playground.variants.targets import linear_shapes, short_names

EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
KINDS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "gpt2": {"n_positions": 128},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "num_key_value_heads": None},
    "olmo2": {},
    "granite": {},
    "bloom": {},
    "falcon": {"alibi": True},
    "phi3": {
        "max_position_embeddings": 128,
        "original_max_position_embeddings": 16,
        "rope_parameters": {**LONG, "original_max_position_embeddings": 16},
    },
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "deepseek_v3": {
        **EXPERTS, **MLA, "num_key_value_heads": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, "n_shared_experts": 1,
    },
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8},
    "jetmoe": {**EXPERTS, "kv_channels": 16},
    "ctrl": {"dff": 64},
    "openai-gpt": {},
}  # fmt: skip
PROMPTS = ([5, 9, 3], [7, 2, 8, 1, 6, 4, 11, 200, 17, 33, 5, 21, 90, 4, 62, 8, 19], [12, 40, 41, 3, 77])


def whole(model: Any, ids: list[int]) -> torch.Tensor:
    """The logits after `ids`, of stock transformers: no cache, no padding, no batch."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=2e-5 * float(expected.abs().max()), rtol=2e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_row_is_what_transformers_says(tmp_path: Path, kind: str) -> None:
    folder = make_checkpoint(tmp_path, kind, **KINDS[kind])
    base = load_base(ModelConfig(source=str(folder), quantisation="none"), device="cpu", dtype="float32")
    model = base.model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter *= 3.0  # so that what is read matters
    shapes = linear_shapes(model)
    assert {name: (out, into) for name, out, into in module_shapes(folder)} == shapes and shapes
    tuned = get_peft_model(
        copy.deepcopy(model), LoraConfig(target_modules=short_names(shapes, dict(model.named_modules())))
    )
    wrapped = {name for name, module in tuned.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert wrapped == set(shapes), "PEFT adapts what is said, no more and no less"
    decoder = Decoder(model, base.tokenizer)
    assert decoder.keeps != rereads(model.config.to_dict()), "what is said before training is what happens"
    noise = np.random.default_rng(0)
    updates = [
        Update(n, B=noise.normal(0, 0.2, (out, 2)), A=noise.normal(0, 0.2, (2, into)))
        for n, (out, into) in shapes.items()
    ]
    adapted = RowUpdate(decoder.adapter(updates))
    batch = decoder.batch()
    texts = [list(prompt) for prompt in PROMPTS for _ in range(2)]
    batch.add([Row(text, update) for text, update in zip(texts, [None, adapted] * len(PROMPTS))])
    seen = []
    with decoder.evaluating():
        for tokens in (None, [3] * 6, [8, 9, 8, 9, 8, 9]):
            seen.append(batch.read(tokens))
    for update in (None, adapted):
        if update is not None:
            for one in updates:
                with torch.no_grad():
                    oriented(model.get_submodule(one.name)).add_(torch.tensor(one.matrix(), dtype=torch.float32))
        for row in range(update is not None, 6, 2):
            end = [8, 9][row % 2]
            for logits, more in zip(seen, ([], [3], [3, end])):
                close(logits[row], whole(model, texts[row] + more))


def test_of_a_model_that_sees_only_what_reads_text_is_adapted(tmp_path: Path) -> None:
    """Gemma 3's vision tower has modules of the same last names; no text goes through them."""
    make_tokenizer(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = sizes | {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 512}
    seen = sizes | {"num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
    marks = {"image_token_index": 500, "boi_token_index": 501, "eoi_token_index": 502}
    config = Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=4, **marks)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    model = load_base(ModelConfig(source=str(tmp_path)), device="cpu", dtype="float32").model
    shapes = {name: (out, into) for name, out, into in module_shapes(tmp_path)}
    assert shapes == linear_shapes(model) and len(shapes) == 14
    tuned = get_variant("lora").attach(model, get_variant("lora").config(rank=4), Context())
    wrapped = {name for name, module in tuned.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert wrapped == set(shapes)
