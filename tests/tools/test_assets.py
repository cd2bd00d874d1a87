"""The shipped files: whole, loadable as any local folder, and checked with errors that say what to do."""

import json
import shutil

import pytest

from lora_playground.assets import ASSETS
from lora_playground.errors import AssetError
from lora_playground.models.catalogue import EMBEDDED
from tools.embedded_model import assets
from tools.embedded_model.tokenizer import CHAT_TEMPLATE, render

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "Ada is a baker."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EMBEDDED)


def test_all_shipped_files_are_as_recorded():
    assert assets.check_assets() >= 36
    recorded = json.loads((ASSETS / "MANIFEST.json").read_text())
    assert set(recorded) == {p.relative_to(ASSETS).as_posix() for p in assets.asset_files()}


def test_the_model_is_small_and_16_bit():
    from safetensors import safe_open

    path = EMBEDDED / "model.safetensors"
    assert path.stat().st_size <= 40_000_000
    with safe_open(path, "np") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
        assert {s.get_dtype() for s in slices} == {"BF16"}
        count = sum(_product(s.get_shape()) for s in slices)
    assert 6_000_000 <= count <= 16_000_000


def _product(shape):
    total = 1
    for n in shape:
        total *= n
    return total


def test_the_template_renders_what_the_base_was_trained_on(tokenizer):
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == render(CHAT)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert render(CHAT).startswith(prompt) and prompt.endswith("<|assistant|>")


def test_the_mask_covers_what_the_assistant_says_and_the_end_of_its_turn(tokenizer):
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"]) if m]
    assert tokenizer.decode(said) == "Ada is a baker.<|end|> Hello!<|end|>"


def test_special_tokens_are_distinct_and_need_not_be_parsed(tokenizer):
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert len(ids) == 3 and None not in ids
    role = tokenizer.convert_tokens_to_ids("<|user|>")
    assert role in tokenizer("<|user|>")["input_ids"]
    assert role not in tokenizer("<|user|>", split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("text", ["Ada is here.", 'a "b" {c}', "line one\nline two", "Grüße, 你好 🙂", "  two spaces"])
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]).strip() == text.strip()


def test_a_wrong_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])


def test_it_loads_and_answers():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, do_sample=False, max_new_tokens=40)[0]
    assert out[-1] == tokenizer.eos_token_id
    assert len(tokenizer.decode(out[ids["input_ids"].shape[1] :], skip_special_tokens=True)) > 3


@pytest.fixture
def copy(tmp_path):
    """A small asset folder with its manifest."""
    (tmp_path / "models" / "embedded").mkdir(parents=True)
    (tmp_path / "datasets" / "json").mkdir(parents=True)
    (tmp_path / "models" / "embedded" / "config.json").write_text("{}")
    shutil.copy(ASSETS / "datasets" / "json" / "card.json", tmp_path / "datasets" / "json")
    assets.write_manifest(tmp_path)
    assert assets.check_assets(tmp_path) == 2
    return tmp_path


def test_a_missing_file_is_named_with_its_remedy(copy):
    (copy / "models" / "embedded" / "config.json").unlink()
    with pytest.raises(AssetError, match=r"config\.json is missing.*embedded_model\.pretrain"):
        assets.check_assets(copy)


def test_a_cut_file_is_named_with_its_sizes(copy):
    path = copy / "datasets" / "json" / "card.json"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AssetError, match=rf"card\.json has {size - 5} bytes, not {size}.*embedded_model\.datasets"):
        assets.check_assets(copy, hashes=False)


def test_a_changed_byte_is_found(copy):
    path = copy / "datasets" / "json" / "card.json"
    path.write_bytes(b"[" + path.read_bytes()[1:])
    assert assets.check_assets(copy, hashes=False) == 2
    with pytest.raises(AssetError, match="damaged"):
        assets.check_assets(copy)


def test_a_broken_manifest_says_how_to_restore_it(copy):
    (copy / "MANIFEST.json").write_text("{")
    with pytest.raises(AssetError, match="git checkout"):
        assets.check_assets(copy)
