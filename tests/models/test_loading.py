"""Base models load by one path, whatever their family; the fingerprint notices every change."""

import json

import numpy as np
import pytest
import torch
from checkpoints import KINDS, PLAIN_TEMPLATE, make_checkpoint
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lora_playground.config import ModelConfig
from lora_playground.errors import ModelError
from lora_playground.models import loading, precision
from lora_playground.models.plain_tokenizer import PlainTokenizer
from lora_playground.models.remarks import remarks


def _load(folder, **options):
    return loading.load_base(ModelConfig(source=str(folder), **options), device="cpu", dtype="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_loads_frozen_with_tokenizer(tmp_path, kind):
    base = _load(make_checkpoint(tmp_path, kind))
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training and base.own_template and base.bits == 16
    assert base.tokenizer.pad_token is not None and base.folder == tmp_path.resolve()
    assert base.model.config._attn_implementation == "sdpa"
    assert base.fingerprint.drift(base.model) == 0.0


def test_the_embedded_model_is_float32_on_a_cpu_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(precision, "probe", lambda device="auto": precision.Precision(device, "bfloat16", 1))
    for asked, embedded, other in (
        (None, torch.float32, torch.bfloat16), ("auto", torch.float32, torch.bfloat16),
        ("bfloat16", torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32, torch.float32),
    ):  # fmt: skip
        assert loading.base_dtype(ModelConfig(), asked, "cpu") == embedded
        assert loading.base_dtype(ModelConfig(source="a/b"), asked, "cpu") == other
    assert loading.base_dtype(ModelConfig(), "auto", "cuda") == torch.bfloat16


def test_fingerprint_notices_a_small_change(tmp_path):
    base = _load(make_checkpoint(tmp_path / "one", "llama"))
    other = _load(make_checkpoint(tmp_path / "two", "llama", seed=1))
    assert base.fingerprint.identity != other.fingerprint.identity
    assert base.fingerprint.identity == _load(tmp_path / "one").fingerprint.identity
    with torch.no_grad():
        base.model.model.layers[0].mlp.down_proj.weight[0, 0] += 0.1
    assert base.fingerprint.drift(base.model) > 1e-6


def test_base_model_without_template_gets_the_fallback(tmp_path):
    base = _load(make_checkpoint(tmp_path, "gpt2", template=None))
    assert not base.own_template
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]
    text = base.tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "User:\nhi\nAssistant:\nHello.<|endoftext|>\n"
    prompt = base.tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)


def test_own_template_is_kept(tmp_path):
    base = _load(make_checkpoint(tmp_path, "llama", template=PLAIN_TEMPLATE))
    assert base.own_template and base.tokenizer.chat_template == PLAIN_TEMPLATE


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_nf4_by_the_real_bitsandbytes(tmp_path, kind):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    make_checkpoint(tmp_path, kind, hidden=64)
    plain, base = _load(tmp_path), _load(tmp_path, quantisation="4bit")
    stored = base.model.model.layers[0].mlp.down_proj
    assert isinstance(stored, bitsandbytes.nn.Linear4bit) and stored.weight.dtype == torch.uint8
    assert stored.weight.quant_state.nested and stored.weight.quant_type == "nf4"
    assert base.bits == 4 and base.fingerprint.identity == plain.fingerprint.identity
    drift = np.abs(base.fingerprint.logits - plain.fingerprint.logits).max() / np.abs(plain.fingerprint.logits).max()
    assert 0 < drift < 0.5


def test_code_from_a_model_is_never_run(tmp_path):
    make_checkpoint(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    config.update(model_type="own", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(ModelError, match=r"never run|tokenizer"):
        _load(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_broken_tokenizer_is_a_clear_error(tmp_path):
    make_checkpoint(tmp_path, "llama")
    (tmp_path / "tokenizer.json").write_text("{]")
    with pytest.raises(ModelError, match="tokenizer"):
        _load(tmp_path)


def test_offline_hub_model_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not on this disk"):
        loading.load_base(ModelConfig(source="nobody/nothing"), device="cpu")


def test_nan_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    make_checkpoint(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="NaN"):
        _load(tmp_path)


def test_who_says_how_many_threads_is_obeyed(monkeypatch):
    for told, wanted in (("1", 1), ("2,1", 2), ("64", 4), ("", 4), ("0", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert precision._threads(4) == wanted


def test_probe_is_measured_once_and_leaves_the_threads_alone():
    before = torch.get_num_threads()
    chosen = precision.probe("cpu")
    assert chosen is precision.probe("cpu") and torch.get_num_threads() == before
    assert chosen.dtype in ("float32", "bfloat16") and chosen.threads >= 1 and chosen.float32_ms > 0
    faster = chosen.bfloat16_ms * precision._GAIN < chosen.float32_ms
    assert (chosen.dtype == "bfloat16") == faster
    assert precision.torch_dtype("auto", "cpu") == getattr(torch, chosen.dtype)
    assert precision.torch_dtype("bfloat16") == torch.bfloat16


def test_an_adapter_in_the_folder_is_no_part_of_the_base(tmp_path):
    """transformers itself would load it into the model."""
    from peft import LoraConfig, get_peft_model

    folder = make_checkpoint(tmp_path / "model", "llama")
    before = _load(folder)
    tuned = get_peft_model(_load(folder).model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    for path in (tmp_path / "adapter").glob("adapter_*"):
        path.rename(folder / path.name)
    base = _load(folder)
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    assert base.fingerprint.identity == before.fingerprint.identity
    np.testing.assert_array_equal(base.fingerprint.logits, before.fingerprint.logits)
    assert any("holds an adapter" in remark for remark in remarks(folder))
    base.model.save_pretrained(tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize("which", ["pad_token", "eos_token"])
def test_a_token_without_a_row_in_the_embedding(tmp_path, which):
    """Padding falls back to the end token; an end token that the model does not know is refused."""
    folder = make_checkpoint(tmp_path, "llama")
    tokenizer, _ = loading.load_tokenizer(folder)
    tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), 512)])  # the embedding has 512 rows
    tokenizer.add_special_tokens({which: "<|late|>"})
    tokenizer.save_pretrained(folder)
    if which == "pad_token":
        assert _load(folder).tokenizer.pad_token == _load(folder).tokenizer.eos_token
    else:
        with pytest.raises(ModelError, match="do not belong together"):
            _load(folder)


@pytest.mark.parametrize("what", ["a mark", "a word"])
def test_tokens_that_text_can_hold_need_a_row_in_the_embedding(tmp_path, what):
    folder = make_checkpoint(tmp_path / "model", "llama", template=PLAIN_TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(f"<|unused {n}|>", special=True) for n in range(512 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    _load(folder)
    tokenizer.add_tokens([AddedToken("<|new|>", special=True)] if what == "a mark" else ["zebra"])
    tokenizer.save_pretrained(folder)
    if what == "a mark":  # harmless, as long as no template writes it
        _load(folder)
        tokenizer.chat_template = PLAIN_TEMPLATE.replace("<|im_start|>", "<|new|>")
        tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"token '(<\|new\|>|zebra)'.* 512 rows has none for it"):
        _load(folder)


@pytest.mark.parametrize("what", ["a reward model", "a model without its head", "a layer short", "an encoder"])
def test_weights_that_are_missing_are_not_made_up(tmp_path, what):
    """transformers fills them with random numbers and warns; the model would answer nonsense with a straight face."""
    folder = make_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=False)
    if what == "a layer short":
        path = folder / "model.safetensors"
        kept = {name: tensor for name, tensor in load_file(path).items() if "layers.1.mlp.up" not in name}
        save_file(kept, path, metadata={"format": "pt"})
    elif what == "an encoder":
        config = AutoConfig.for_model(
            "bert", vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        AutoModel.from_config(config).save_pretrained(folder)
    else:
        kind = AutoModelForSequenceClassification if what == "a reward model" else AutoModel
        kind.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"holds no .*(lm_head|up_proj|cls).*, which a causal language model needs"):
        _load(folder)


def test_a_template_in_a_file_of_its_own_that_tokenizers_do_not_read(tmp_path):
    folder = make_checkpoint(tmp_path / "m", "llama")
    for path in folder.glob("chat_template*"):
        path.unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PLAIN_TEMPLATE}))
    base = _load(folder)
    assert base.own_template and base.tokenizer.chat_template == PLAIN_TEMPLATE
    assert PlainTokenizer(folder).chat_template == PLAIN_TEMPLATE
    (folder / "chat_template.json").write_text("[")
    assert not _load(folder).own_template


def test_of_several_templates_the_default_one_is_taken(tmp_path):
    folder = make_checkpoint(tmp_path / "model", "llama", template=PLAIN_TEMPLATE)
    for path in folder.glob("chat_template*"):
        path.unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": PLAIN_TEMPLATE}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": several}))
    assert _load(folder).tokenizer.chat_template == PLAIN_TEMPLATE
