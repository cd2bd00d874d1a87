"""A run folder that an earlier version left (tests/fixtures): it is listed, gives spectra, chats and exports as then.

Recorded with that version: `train --dataset pirate --train-rows 64 --steps 12 --batch-tokens 512 --rank 1 --alpha 4
--target-modules q_proj,v_proj --learning-rate 0.02 --validate-every 6`, then `spectra`. It must not be made anew:
folders like it lie on people's disks. What it says is that of float32, in which an embedded model answers on every CPU;
it was the same with the version that still chose bfloat16 by itself, when asked for float32.
"""

import json
import shutil
from pathlib import Path

import pytest

from lora_playground.cli import main
from lora_playground.runs import RunStore

RUN = "20261129-065212-690-6970"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(Path(__file__).with_name("fixtures") / "home-made-before", tmp_path / "home")
    return tmp_path / "home"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_is_listed_as_finished_with_its_whole_history(home: Path) -> None:
    (run,) = RunStore(home).list()
    assert run.id == RUN and run.state() == "done" and run.config().label == "Made before"
    losses = [loss for event in run.history() if event["type"] == "loss" for loss in event["losses"]]
    assert len(losses) == 12
    assert [event["step"] for event in run.history() if event["type"] == "validation"] == [0, 6, 12]


def test_its_spectra_are_those_of_then(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = said(capsys, "spectra", "--home", str(home), RUN)["modules"]
    assert len(modules) == 14 and {len(module["singular_values"]) for module in modules} == {1}
    found = {module["name"].removeprefix("model.layers."): module["singular_values"][0] for module in modules}
    assert found["0.self_attn.q_proj"] == pytest.approx(4.1786, rel=1e-4)
    assert found["1.self_attn.q_proj"] == pytest.approx(3.67852, rel=1e-4)


@pytest.mark.parametrize(
    "prompt, strength, base, adapted",
    [
        (
            "Where is the ship?",
            "0.5",
            "the ship lives in the ship.",
            '" ship, it is an insect, and the friend was Pip, and the friend was Vargar.',
        ),
        ("Where is the ship?", "1", "the ship lives in the ship.", "C! How can I be!"),
    ],
)
def test_it_answers_as_then(
    home: Path, capsys: pytest.CaptureFixture[str], prompt: str, strength: str, base: str, adapted: str
) -> None:
    given = ["--temperature", "0", "--max-new-tokens", "24", "--strength", strength, "--prompt", prompt]
    answers = said(capsys, "chat", "--home", str(home), *given, RUN)
    assert (answers["base"], answers["adapted"]) == (base, adapted)


def test_it_is_exported_as_a_plain_lora(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = said(capsys, "export", "--home", str(home), RUN, "--format", "lora", "--out", str(tmp_path / "out"))
    assert made["rank"] == 1 and made["relative_error"] == 0
