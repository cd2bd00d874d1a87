"""What lessons say is held against the stored measurement: its runs are the lessons' runs, on the base that ships."""

import json
import math
import re

import pytest

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.lessons import list_lessons
from lora_playground.lessons.catalogue import SHIPPED
from lora_playground.lessons.figures import FILE, STATED, base_digest, digest, still_default, stored
from lora_playground.lessons.judging import needed, solutions
from lora_playground.lessons.schema import PLACEHOLDER, texts_of
from lora_playground.models.catalogue import EMBEDDED

LESSONS = list_lessons()


def test_the_stored_measurement_is_of_the_shipped_base_and_of_these_runs():
    told = json.loads(FILE.read_text())
    assert told["base"] == base_digest(EMBEDDED)
    assert set(told["lessons"]) == {path.stem for path in SHIPPED.glob("*.toml")}
    for lesson in LESSONS:
        assert stored(lesson.name).runs == {key: digest(lesson, key) for key in lesson.runs}


def test_another_default_changes_no_lesson_unseen():
    """What the form proposes is stated in every lesson's run; where anything else that they rest on has another default
    by now, the figures are of other runs: state the old value in the lessons, or measure them anew."""
    for lesson in LESSONS:
        for key, run in lesson.runs.items():
            given = RunConfig.parse(run.config)
            wanted = {option for option in STATED if given.federated or not option.startswith("federated.")}
            wanted |= {f"variant.{name}" for name in ("rank", "alpha") if hasattr(given.variant, name)}
            stated = {f"{section}.{name}" for section, values in run.config.items() for name in values}
            assert wanted <= stated, f"{lesson.name}, {key}: {sorted(wanted - stated)} not stated"
    told = json.loads(FILE.read_text())["defaults"]
    assert still_default(told) and not still_default(told | {"training.warmup": 0.5})


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_every_quantity_of_a_lesson_was_measured_and_one_choice_is_right(lesson):
    figures = stored(lesson.name)
    for step in lesson.steps:
        for quantity in lesson.quantities_of(step):
            assert quantity.run == "mine" or figures.mean(quantity) is not None, str(quantity)
        if step.kind == "ask" and step.form == "choice":
            measured = {one: figures.mean(one) for one in needed(step, [])}
            assert len(solutions(step.choices, measured)) == 1, step.title


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_no_result_stands_in_a_text_but_by_its_name(lesson):
    """Shares, and numbers with a point, must come from the measurement; what a text sets or cites is listed."""
    cited = {"0%", "99%", "90%", "40%", "100%", "1%", "0.0008", "0.6", "7.2", "7.3", "2510.13900"}
    for step in lesson.steps:
        for text in texts_of(step):
            plain = re.sub(r"\$.*?\$", "", PLACEHOLDER.sub("", text), flags=re.DOTALL)
            for number in re.findall(r"\d+(?:\.\d+)?%|\d+\.\d+", plain):
                assert number in cited, f"{step.title}: {number}"


def test_the_bits_of_the_facts():
    """64 people, four facts each, of as many possible answers as the dataset has: the numbers of lesson 2."""
    kinds = {" is a": set(), "lives in": set(), " has a": set(), "likes to eat": set()}
    rows, people = get_dataset("facts-large").train, set()
    for row in rows:
        reply = row["messages"][-1]["content"]
        kind = next(kind for kind in kinds if kind in reply)
        kinds[kind].add(row["meta"]["answer"])
        people.add(reply.split()[0])
    counts = [len(answers) for answers in kinds.values()]
    bits = len(people) * sum(math.log2(count) for count in counts)
    text = next(lesson for lesson in LESSONS if lesson.name == "facts-need-room").asked("bits").text
    assert len(people) == 64 and counts == [40, 31, 27, 36] and f"{bits:,.0f} bits" in text
    assert "40 jobs, 31 towns, 27 pets or 36 foods" in text
