"""Lessons as files: what ships is valid, and what is wrong in a file is said in plain words."""

import copy
import json

import pytest

from lora_playground.cli import main
from lora_playground.errors import LessonError
from lora_playground.lessons import get_lesson, list_lessons
from lora_playground.lessons.catalogue import parse, problems
from lora_playground.lessons.quantities import Quantity, holds, written
from lora_playground.lessons.sheet import sheet

LESSON = {
    "title": "T", "minutes": 5, "after": "You can.",
    "runs": {"a": {"title": "A", "config": {"training": {"steps": 3, "seed": 0}}}},
    "steps": [
        {"kind": "ask", "name": "q", "form": "number", "title": "Q", "axis": {"label": "y", "unit": "%"},
         "within": 0.1, "near": "near", "low": "low", "high": "high"},
        {"kind": "run", "title": "R", "runs": ["a"]},
        {"kind": "reveal", "title": "V", "ask": "q", "result": ["a.score"]},
    ],
}  # fmt: skip


def test_shipped_lessons_are_valid_and_listed(capsys):
    assert problems() == []
    assert main(["lessons", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [lesson.name for lesson in list_lessons()]
    for one in listed:
        assert {"name", "title", "minutes", "steps"} <= set(one) and one["minutes"] <= 10
        kinds = [step["kind"] for step in one["steps"]]
        reveal = kinds.index("reveal")
        assert kinds.index("ask") < reveal and kinds.index("run") < reveal, "predict and run before looking"
        assert "modify" in kinds


def test_every_shipped_run_is_fixed():
    for lesson in list_lessons():
        for key, run in lesson.runs.items():
            training = run.config["training"]
            assert {"steps", "seed"} <= set(training), f"{lesson.name}: {key} has fixed steps and seed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told["steps"][2].update(ask="other"), "'other', which no step before it asks"),
        (lambda told: told["steps"].reverse(), "which no step before it asks"),
        (lambda told: told["steps"][2].update(result=["b.score"]), "a run 'b', which is not in [runs]"),
        (lambda told: told["steps"][2].update(result=["a.charm"]), "there is no value 'charm'"),
        (lambda told: told["steps"][2].update(result=["a.cut_score"]), "cut_score takes @ and a number of directions"),
        (lambda told: told["steps"][2].update(text="{{a.scor}}"), "there is no value 'scor'"),
        (lambda told: told["steps"][0].update(near=""), "a number needs axis, within, near, low and high"),
        (lambda told: told["steps"][1].update(kind="runs"), "steps.1"),
        (lambda told: told["runs"]["a"]["config"]["training"].update(steps=0), "it must be at least 1"),
        (lambda told: told["runs"]["a"]["config"]["training"].update(seconds=5.0), "no seconds"),
        (lambda told: told.update(colour="red"), "colour"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    told = copy.deepcopy(LESSON)
    assert parse(told, "name", "name.toml").title == "T"
    change(told)
    with pytest.raises(LessonError) as refused:
        parse(told, "name", "name.toml")
    assert words in str(refused.value) and str(refused.value).startswith("name.toml")


def test_own_lessons_stand_beside_and_before_the_shipped(tmp_path):
    (tmp_path / "lessons").mkdir()
    text = 'title = "Mine"\nminutes = 1\nafter = "x"\norder = 0\n[[steps]]\nkind = "say"\ntitle = "S"\n'
    (tmp_path / "lessons" / "mine.toml").write_text(text)
    (tmp_path / "lessons" / "broken.toml").write_text("title = ")
    assert list_lessons(tmp_path)[0].title == "Mine" == get_lesson("mine", tmp_path).title
    assert len(problems(tmp_path)) == 1 and "broken.toml is no TOML file" in problems(tmp_path)[0]
    with pytest.raises(LessonError, match="There is no lesson 'none'; there are mine"):
        get_lesson("none", tmp_path)


def test_comparisons():
    a, b = Quantity("a", "score"), Quantity("b", "cut_score", "4")
    measured = {a: 0.5, b: 0.8}
    assert holds("b.cut_score@4 > a.score + 0.2 and a.score <= 2 * 0.25", measured)
    assert not holds("b.cut_score@4 - a.score > 0.31", measured)
    assert not holds("b.cut_score@4 / a.score > 1", measured | {a: 0.0}), "a model that answers nothing is no error"
    for text in ("a.score", "a.score == 1", "__import__('os')", "a.score > [1]", "a.score > x"):
        with pytest.raises(ValueError):
            holds(text, measured)
    assert [written(share, "%") for share in (0.0, 1e-9, 0.0043, 0.01, 0.876)] == ["0%", "0%", "0.4%", "1%", "88%"]
    assert [written(-0.034, "points"), written(523_264, "count"), written(2_100_000, "bytes")] == [
        "-3 points", "523,264", "2.1 MB",
    ]  # fmt: skip


@pytest.mark.parametrize("lesson", list_lessons(), ids=lambda lesson: lesson.name)
def test_the_sheet_asks_everything_and_tells_nothing_unless_it_is_asked_to(lesson) -> None:
    asked, solved = sheet(lesson), sheet(lesson, answers=True)
    for step in lesson.steps:
        if step.kind == "ask":
            assert f". {step.title}" in asked
            for choice in step.choices:
                assert f"- [ ] {choice.text}" in asked
                assert choice.because.split("{{")[0][:40] not in asked
            if step.form != "choice":
                assert step.near not in asked and step.near in solved
    assert "not measured yet" not in solved
