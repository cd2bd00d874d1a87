"""The model catalogue reads shapes from headers alone; the loaded model is the witness."""

import json
import shutil
import struct
import subprocess
import sys

import pytest
from checkpoints import KINDS, make_checkpoint

from lora_playground.errors import AssetError, ConfigError, ModelError
from lora_playground.models import catalogue


def _linears(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 2 and "lm_head" not in name and "Embedding" not in str(type(module)):
            turned = type(module).__name__ == "Conv1D"
            found[name] = tuple(weight.shape[::-1] if turned else weight.shape)
    return found, model.num_parameters()


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_agree_with_the_loaded_model(tmp_path, kind):
    make_checkpoint(tmp_path, kind, hidden=64, layers=3)
    modules = catalogue.module_shapes(tmp_path)
    expected, count = _linears(tmp_path)
    assert {name: (out, into) for name, out, into in modules} == expected
    assert len({name for name, _, _ in modules}) == len(modules)
    assert catalogue.parameter_count(tmp_path) == count


def test_modules_come_in_the_order_of_the_data(tmp_path):
    make_checkpoint(tmp_path, "llama", layers=11)
    names = [name for name, _, _ in catalogue.module_shapes(tmp_path)]
    assert [name.rsplit(".", 1)[1] for name in names[:7]] == (
        "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    )
    assert [int(name.split(".")[2]) for name in names] == sorted(int(name.split(".")[2]) for name in names)


def test_sharded_checkpoint(tmp_path):
    make_checkpoint(tmp_path, "qwen3", max_shard_size="40KB")
    assert not (tmp_path / "model.safetensors").exists()
    expected, _ = _linears(tmp_path)
    assert {name: (out, into) for name, out, into in catalogue.module_shapes(tmp_path)} == expected
    next(tmp_path.glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(ModelError, match="model-00002"):
        catalogue.module_shapes(tmp_path)


def test_gpt2_as_the_hub_stores_it(tmp_path):
    """OpenAI's own file leaves out the outermost 'transformer.'."""
    from safetensors.numpy import load_file, save_file

    make_checkpoint(tmp_path, "gpt2")
    expected, _ = _linears(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({key.removeprefix("transformer."): value for key, value in load_file(file).items()}, file)
    assert {name: (out, into) for name, out, into in catalogue.module_shapes(tmp_path)} == expected


def test_experts_routers_and_vision_are_left_out(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    keys = {
        "model.layers.0.self_attn.q_proj.weight": (8, 4),
        "model.layers.0.mlp.gate.weight": (2, 4),
        "model.layers.0.mlp.experts.0.up_proj.weight": (8, 4),
        "model.layers.0.block_sparse_moe.gate.weight": (2, 4),
        "vision_tower.encoder.layers.0.self_attn.q_proj.weight": (8, 4),
        "model.layers.0.input_layernorm.weight": (4,),
        "model.embed_tokens.weight": (9, 4),
        "lm_head.weight": (9, 4),
    }
    save_file({key: np.zeros(shape, np.float32) for key, shape in keys.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    assert catalogue.module_shapes(tmp_path) == [("model.layers.0.self_attn.q_proj", 8, 4)]


def test_quantised_storage_is_refused(tmp_path):
    make_checkpoint(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ModelError, match="16-bit original"):
        catalogue.module_shapes(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x00" * 4, struct.pack("<Q", 2**60), struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b"{broken}}"],
)
def test_damaged_headers(tmp_path, damage):
    make_checkpoint(tmp_path, "llama")
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        catalogue.module_shapes(tmp_path)


def test_truncated_weights(tmp_path):
    make_checkpoint(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not fully covered"):
        catalogue.resolve(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="can run code"):
        catalogue.resolve(str(tmp_path))


def test_resolve(tmp_path, monkeypatch):
    assert catalogue.resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    folder = make_checkpoint(tmp_path / "model", "llama")
    assert catalogue.resolve(str(folder)) == folder.resolve()
    with pytest.raises(ConfigError, match="choose a model of the list"):
        catalogue.resolve(str(folder), local=False)


@pytest.mark.parametrize(
    "source",
    "../../etc|../etc|a/../../b|a/..|https://host/model|file:///etc|a b/c|a/b/c|no-such-model|x\0y/z|-a/b|a/b\n|"
    "/no/such/folder|é/b| ".split("|"),
)
def test_resolve_refuses(source):
    with pytest.raises(ConfigError, match=r"model\.source"):
        catalogue.resolve(source)


def test_embedded_missing_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "EMBEDDED", tmp_path)
    with pytest.raises(AssetError, match=r"config\.json is missing; rebuild it with: python -m"):
        catalogue.resolve("embedded")
    make_checkpoint(tmp_path, "llama")
    assert catalogue.resolve("embedded") == tmp_path
    assert catalogue.list_models()[0].on_disk and catalogue.list_models()[0].parameters > 0
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AssetError, match=r"model\.safetensors.*python -m tools\.embedded_model\.pretrain"):
        catalogue.resolve("embedded")
    assert not catalogue.list_models()[0].on_disk


def test_cached_snapshots_are_found_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert catalogue.folder_of("Qwen/Qwen3-0.6B") is None
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    made = make_checkpoint(tmp_path / "made", "qwen3")
    shutil.copytree(made, snapshot)
    assert catalogue.folder_of("Qwen/Qwen3-0.6B") == snapshot
    assert next(card for card in catalogue.list_models() if card.source == "Qwen/Qwen3-0.6B").on_disk
    (snapshot / "model.safetensors").unlink()
    assert catalogue.folder_of("Qwen/Qwen3-0.6B") is None


def test_needs_no_torch():
    code = "import sys, lora_playground.models.catalogue as c; c.list_models(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
