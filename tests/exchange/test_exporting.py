"""Export of finished runs as PEFT folder, plain LoRA and merged model, read back with stock PEFT and transformers."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trials import base, checkpoint, logits, trial

from lora_playground.analysis.plain_lora import truncate, write_plain_lora
from lora_playground.analysis.update import Update, save_updates
from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, RunError
from lora_playground.exchange.exporting import export
from lora_playground.runs import Run


def finished(tmp_path, name, kind="llama"):
    """A run folder as the pipeline leaves it."""
    case = trial(name, kind)
    run = Run(tmp_path / f"run-{name}-{kind}")
    run.folder.mkdir()
    config = RunConfig.parse({"model": {"source": str(checkpoint(kind))}, "variant": case.config.model_dump()})
    run.config_path.write_text(config.model_dump_json())
    save_updates(case.updates, run.update_path)
    case.variant.save(case.model, run.adapter)
    run.result_path.write_text(json.dumps({"state": "done"}))
    return run.folder, case


@pytest.mark.parametrize(
    ("name", "kind"), [("lora", "llama"), ("pissa", "gpt2"), ("nlora", "qwen3"), ("vera", "gemma3")]
)
def test_low_rank_updates_become_a_plain_lora_exactly(name, kind, tmp_path):
    folder, case = finished(tmp_path, name, kind)
    report = export(folder, "lora", tmp_path / "out")
    assert report["exact"] and report["relative_error"] == 0.0 and report["note"] == "" and report["left_out"] == []
    loaded = PeftModel.from_pretrained(base(kind), str(tmp_path / "out"))
    assert type(loaded.peft_config["default"]).__name__ == "LoraConfig"
    torch.testing.assert_close(logits(loaded), case.at_end, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["dora", "loha", "oft"])
def test_dense_updates_become_the_nearest_lora_and_the_error_is_stated(name, tmp_path):
    folder, case = finished(tmp_path, name)
    report = export(folder, "lora", tmp_path / "out", rank=3)
    loaded = PeftModel.from_pretrained(base("llama"), str(tmp_path / "out"))
    config = loaded.peft_config["default"]
    assert config.r == 3 and not report["exact"] and f"{report['relative_error']:.1%}" in report["note"]
    lost = total = 0.0
    for update in case.updates:  # the error by an independent way: a dense SVD in float64
        values = np.linalg.svd(update.matrix(), compute_uv=False)
        lost, total = lost + np.sum(values[3:] ** 2), total + np.sum(values**2)
        layer = loaded.get_base_model().get_submodule(update.name)
        missing = np.linalg.norm(layer.get_delta_weight("default").detach().numpy() - update.matrix())
        assert missing == pytest.approx(np.sqrt(np.sum(values[3:] ** 2)), rel=1e-3, abs=1e-5)
    assert report["relative_error"] == pytest.approx(np.sqrt(lost / total), rel=1e-4)
    finer = export(folder, "lora", tmp_path / "finer")
    assert finer["relative_error"] <= 0.01 < report["relative_error"]


def test_full_fine_tuning_becomes_a_lora_that_names_what_is_left_out(tmp_path):
    folder, _ = finished(tmp_path, "full")
    report = export(folder, "lora", tmp_path / "out", rank=2)
    assert "model.norm.weight" in report["left_out"] and "model.embed_tokens.weight" in report["left_out"]
    assert 0 < report["relative_error"] < 1 and "left out" in report["note"]
    PeftModel.from_pretrained(base("llama"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "kind"), [("lora", "gpt2"), ("pissa", "llama"), ("dora", "gemma3"), ("full", "llama")]
)
def test_merged_model_loads_by_itself_as_its_base_is_stored(name, kind, tmp_path):
    folder, case = finished(tmp_path, name, kind)
    report = export(folder, "merged", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert report["exact"] and next(merged.parameters()).dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert report["bytes"] > 10_000 and "model.safetensors" in report["files"]
    torch.testing.assert_close(logits(merged), case.at_end, atol=1e-4, rtol=1e-3)


def test_a_merged_model_of_a_16_bit_base_says_how_far_its_rounding_takes_it(tmp_path):
    folder, _ = finished(tmp_path, "lora")
    stored = AutoModelForCausalLM.from_pretrained(checkpoint("llama")).bfloat16()
    stored.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(checkpoint("llama")).save_pretrained(tmp_path / "base")
    config = Run(folder).config()
    model = config.model.model_copy(update={"source": str(tmp_path / "base")})
    Run(folder).config_path.write_text(config.model_copy(update={"model": model}).model_dump_json())
    report = export(folder, "merged", tmp_path / "out")
    assert not report["exact"] and "rounded to bfloat16" in report["note"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_peft_format_is_the_saved_adapter(tmp_path):
    folder, case = finished(tmp_path, "dora")
    export(folder, "peft", tmp_path / "out")
    loaded = PeftModel.from_pretrained(base("llama"), str(tmp_path / "out"))
    torch.testing.assert_close(logits(loaded), case.at_end, atol=2e-5, rtol=1e-4)


def test_the_card_of_an_export_tells_what_it_is_and_no_path_of_this_machine(tmp_path):
    folder, _ = finished(tmp_path, "lora")
    result = {
        "state": "done",
        "steps": 12,
        "tokens": 900,
        "score": {"metric": "exact", "base": 0.1, "adapted": 0.5, "n": 40, "low": 0.35, "high": 0.65,
                  "base_low": 0.04, "base_high": 0.23},
        "forgetting": {"base": 1.0, "adapted": 0.9, "drop": 0.1, "low": 0.02, "high": 0.18, "n": 48},
    }  # fmt: skip
    Run(folder).result_path.write_text(json.dumps(result))
    for format in ("peft", "lora"):
        export(folder, format, tmp_path / format)
        text = (tmp_path / format / "README.md").read_text()
        assert "rank 4" in text and "adapted 50.0% [35.0%, 65.0%] (40 rows" in text and "12 steps" in text
        assert "base 10.0% [4.0%, 23.0%]" in text and "lost 10.0% [2.0%, 18.0%] (48 questions" in text
        assert "Talk like a pirate" in text and "base_model: llama" in text
        config = (tmp_path / format / "adapter_config.json").read_text()
        assert json.loads(config)["base_model_name_or_path"] == "llama"
        assert str(tmp_path) not in text + config and str(checkpoint("llama").parent) not in text + config


def test_bad_requests_are_refused_in_words_and_leave_nothing_behind(tmp_path):
    folder, _ = finished(tmp_path, "lora")
    with pytest.raises(ConfigError, match="peft, lora, merged"):
        export(folder, "gguf", tmp_path / "out")
    for rank in (0, -3, True):
        with pytest.raises(ConfigError, match="at least 1"):
            export(folder, "lora", tmp_path / "out", rank=rank)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export(folder, "peft", taken)
    assert (taken / "mine.txt").read_text() == "keep"
    save_updates([Update("model.layers.0.no_such", dense=np.ones((3, 3)))], Run(folder).update_path)
    with pytest.raises(RunError, match="another base model"):
        export(folder, "merged", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    Run(folder).result_path.unlink()
    with pytest.raises(RunError, match="not finished"):
        export(folder, "peft", tmp_path / "out")


def test_truncating_factors_equals_truncating_the_product(tmp_path):
    rng = np.random.default_rng(0)
    update = Update("m", B=rng.normal(size=(20, 6)), A=rng.normal(size=(6, 30)))
    b, a, lost, whole = truncate(update, 2)
    u, s, vt = np.linalg.svd(update.matrix(), full_matrices=False)
    np.testing.assert_allclose(b @ a, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-10)
    assert lost == pytest.approx(np.sum(s[2:] ** 2)) and whole == pytest.approx(np.sum(s**2))


def test_modules_of_different_rank_are_named_in_the_pattern(tmp_path):
    rng = np.random.default_rng(0)
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"]
    shapes = [(32, 2, 32), (32, 2, 32), (64, 5, 32)]
    updates = [Update(n, B=rng.normal(size=(m, k)), A=rng.normal(size=(k, w))) for n, (m, k, w) in zip(names, shapes)]
    write_plain_lora(updates, tmp_path)
    loaded = PeftModel.from_pretrained(base("llama"), str(tmp_path)).get_base_model()
    for update in updates:
        delta = loaded.get_submodule(update.name).get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(delta, update.matrix(), atol=1e-5)
