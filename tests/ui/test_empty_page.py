"""The empty page: recordings are real and of the base that ships; a base model is judged when it is named."""

import json

import pytest

from lora_playground.config import RunConfig
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.ui import empty, recordings
from lora_playground.ui.model_step import note
from tests.hub_server import Hub, serving

RECORDED = sorted(path.stem for path in recordings.FOLDER.glob("*.json"))


@pytest.mark.parametrize("dataset", RECORDED)
def test_a_recording_ends_with_its_result_and_every_frame_says_what_it_is(dataset):
    told = recordings.recording(dataset)
    frames = recordings.frames(dataset)
    assert all("Recording" in frame["card"] and told["how"]["command"] in frame["card"] for frame in frames)
    score = told["result"]["score"]
    changed = told["result"]["changed"]
    assert f"{100 * score['adapted']:.0f}%" in frames[-1]["card"]
    assert f"{changed['n']} of {changed['of']} answers are different now" in frames[-1]["card"]
    assert frames[-1]["curve"]["steps"] == list(range(1, told["plan"]["steps"] + 1))
    steps = [max(frame["curve"]["steps"]) for frame in frames[:-1]]
    assert steps == sorted(set(steps)), "it goes on from frame to frame"


def test_the_recorded_base_answers_are_what_the_base_answers(tmp_path):
    """Against transformers in full precision: each recorded token is the likeliest, or as good as that. The runs were
    made in half precision, where a near tie may go the other way."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    for dataset in RECORDED:
        (step, answers), prompts = recordings.recording(dataset)["probes"][0], empty._asked(dataset, tmp_path)
        assert step == 0 and [one["prompt"] for one in answers] == [prompt[-1]["content"] for prompt in prompts]
        for prompt, answer in zip(prompts, answers):
            asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
            read = tokenizer(asked, add_special_tokens=False)["input_ids"]
            said = tokenizer(answer["answer"], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                scores = model(torch.tensor([read + said])).logits[0, len(read) - 1 : -1].log_softmax(-1)
            behind = scores.max(-1).values - scores[range(len(said)), said]
            assert said and behind.max() < 0.1, f"{dataset}: {answer}, {behind.max():.3f} nats behind"


def test_another_base_gets_no_recording_and_no_answers(tmp_path):
    assert recordings.recording("pirate", "Qwen/Qwen3-0.6B") is None
    assert recordings.recording("../MANIFEST") is None and recordings.frames("nobody") == []
    plan = empty.plan(RunConfig.parse({"model": {"source": "Qwen/Qwen3-0.6B"}}), tmp_path)
    assert not plan["recording"] and "Ask the base now" in plan["probes"] and "What" in plan["probes"]


def test_the_plan_has_every_module_at_zero_and_says_which_settings_were_recorded(tmp_path):
    plan = empty.plan(RunConfig.parse({}), tmp_path)
    cells = [value for line in plan["pictures"]["map"]["data"][0]["z"] for value in line]
    assert len(cells) == 49 and not any(cells) and "made with these settings" in plan["play"]
    plan = empty.plan(RunConfig.parse({"variant": {"name": "lora", "rank": 2}}), tmp_path)
    assert f"other settings: {RunConfig.parse({}).label}" in plan["play"] and "r = 2" in plan["scale"]


def test_a_base_model_is_judged_when_it_is_named(tmp_path, monkeypatch):
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    for folder in (whole, bare):
        folder.mkdir()
        (folder / "config.json").write_text((EMBEDDED / "config.json").read_text())
    (whole / "model.safetensors").write_bytes((EMBEDDED / "model.safetensors").read_bytes())
    assert "49 modules that can be adapted" in note(str(whole))
    assert "lp-error" in note(str(bare)) and "model.safetensors" in note(str(bare))
    assert "lp-error" in note("no such thing") and "Choose a base model" in note("")

    with serving(Hub({"models/some/whole": whole, "models/some/bare": bare})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        weights = (whole / "model.safetensors").stat().st_size / 1e6
        assert f"Found on the hub: {weights:.1f} MB" in note("some/whole")
        assert "has no model.safetensors" in note("some/bare")
        assert "There is no model some/nothing on the hub" in note("some/nothing")
        assert not any("resolve" in path for _, path, _, _ in hub.asked), json.dumps(hub.asked)
