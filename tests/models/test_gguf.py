"""A GGUF file is a base model like any other, once it was converted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint

from lora_playground.config import ModelConfig
from lora_playground.errors import ConfigError, ModelError
from lora_playground.models import gguf
from lora_playground.models.catalogue import folder_of, list_models, resolve
from lora_playground.models.loading import load_base
from lora_playground.runs import default_home, home_at

writer = pytest.importorskip("gguf")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small Llama as a GGUF file, made by the library's own writer, and a home for what is converted."""
    monkeypatch.setenv("LORA_PLAYGROUND_HOME", str(tmp_path / "home"))
    base = load_base(ModelConfig(source=str(make_checkpoint(tmp_path / "plain", "llama"))), "cpu", "float32")
    config, tokenizer = base.model.config, base.tokenizer
    path = tmp_path / "small.gguf"
    made = writer.GGUFWriter(path, "llama")
    made.add_block_count(config.num_hidden_layers)
    made.add_context_length(config.max_position_embeddings)
    made.add_embedding_length(config.hidden_size)
    made.add_feed_forward_length(config.intermediate_size)
    made.add_head_count(config.num_attention_heads)
    made.add_head_count_kv(config.num_key_value_heads)
    made.add_layer_norm_rms_eps(config.rms_norm_eps)
    made.add_rope_freq_base(10000.0)
    made.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens += [f"[unused{number}]" for number in range(config.vocab_size - len(tokens))]
    special = set(tokenizer.all_special_ids)
    made.add_tokenizer_model("gpt2")
    made.add_token_list(tokens)
    made.add_token_types([3 if number in special else 1 for number in range(len(tokens))])
    made.add_token_merges([" ".join(pair) for pair in _merges(tokenizer)])
    made.add_bos_token_id(config.bos_token_id)
    made.add_eos_token_id(tokenizer.eos_token_id)
    made.add_chat_template(tokenizer.chat_template)
    names = writer.get_tensor_name_map(writer.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in base.model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        values = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # GGUF keeps the two halves of a head interleaved
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        stem = names.get_name(name, try_suffixes=(".weight",))
        made.add_tensor(stem, np.ascontiguousarray(values))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


def _merges(tokenizer: object) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]  # type: ignore[attr-defined]


def test_it_answers_as_the_model_that_it_was_made_of(file: Path, tmp_path: Path) -> None:
    assert folder_of(str(file)) is None and resolve(str(file)) == str(file), "not converted yet"
    told: list[tuple[int, int]] = []
    base = load_base(ModelConfig(source=str(file)), "cpu", "float32", lambda done, total: told.append((done, total)))
    assert told[0][0] == 0 and told[-1] == (file.stat().st_size,) * 2 and told == sorted(told)
    plain = load_base(ModelConfig(source=str(tmp_path / "plain")), "cpu", "float32")
    torch.testing.assert_close(torch.tensor(base.fingerprint.logits), torch.tensor(plain.fingerprint.logits))
    talk = [{"role": "user", "content": "What is your name?"}]
    given = {"tokenize": False, "add_generation_prompt": True}
    assert base.tokenizer.apply_chat_template(talk, **given) == plain.tokenizer.apply_chat_template(talk, **given)
    assert base.tokenizer("What is your name?")["input_ids"] == plain.tokenizer("What is your name?")["input_ids"]
    assert folder_of(str(file)) == base.folder == gguf.converted_folder(file)
    assert [path.name for path in base.folder.parent.iterdir()] == [base.folder.name], "nothing half made is left"
    again: list[tuple[int, int]] = []
    load_base(ModelConfig(source=str(file)), "cpu", "float32", lambda done, total: again.append((done, total)))
    assert not again


def test_it_is_converted_into_the_home_that_was_asked_for(file: Path, tmp_path: Path) -> None:
    with home_at(tmp_path / "another"):
        assert (
            load_base(ModelConfig(source=str(file)), "cpu", "float32").folder.parent == tmp_path / "another" / "models"
        )
    assert default_home() == tmp_path / "home" and not (tmp_path / "home" / "models").exists()


def test_what_cannot_be_read_is_said(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be chosen here"):
        resolve(str(file), local=False)
    with monkeypatch.context() as patch, pytest.raises(ModelError, match=r"requirements-gguf\.txt"):
        patch.setattr(gguf, "find_spec", lambda name: None)
        gguf.convert(file)
    broken = tmp_path / "broken" / "model.gguf"
    broken.parent.mkdir()
    broken.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read"):
        load_base(ModelConfig(source=str(broken.parent)), "cpu", "float32")
    assert not list((tmp_path / "home" / "models").iterdir())
    (broken.parent / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="several GGUF files"):
        resolve(str(broken.parent))


def test_a_model_that_a_package_brings_is_listed_where_it_is_installed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gguf.INSTALLED, "smollm2-135m", "a_package_with_a_model")
    assert "smollm2-135m" not in [card.source for card in list_models()]
    with pytest.raises(ModelError, match="pip install a-package-with-a-model"):
        resolve("smollm2-135m")
    package = tmp_path / "site" / "a_package_with_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    file.rename(package / "model.gguf")
    monkeypatch.syspath_prepend(str(package.parent))
    card = next(card for card in list_models() if card.source == "smollm2-135m")
    assert card.on_disk and card.label == "SmolLM2 135M Instruct, real, offline"
    assert load_base(ModelConfig(source="smollm2-135m"), "cpu", "float32").folder == folder_of("smollm2-135m")
