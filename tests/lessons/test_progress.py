"""A person's way through a lesson: a prediction is locked, nothing revealed can be predicted, what was done is kept."""

import json
import threading

import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import LessonError
from lora_playground.lessons.catalogue import parse
from lora_playground.lessons.judging import checked_answer, fits, judge
from lora_playground.lessons.progress import Attempt, Learners, answer, complete, enter
from lora_playground.lessons.quantities import Quantity
from lora_playground.lessons.schema import Check
from tests.lessons.test_lesson_files import LESSON

CHOICES = [
    {"text": "more", "because": "since more", "when": "a.score > 0.5"},
    {"text": "less", "because": "since less", "when": "a.score <= 0.5"},
]


def lesson(**ask):
    told = json.loads(json.dumps(LESSON))
    told["steps"][0].update(ask)
    if ask.get("form") == "curve":
        told["steps"][2]["result"] = ["a.cut_score@1", "a.cut_score@2"]
    return parse(told, "name", "name.toml")


def test_a_prediction_is_locked_before_anything_is_revealed():
    made, attempt = lesson(), Attempt(started=0)
    enter(made, attempt, 0, 1)
    answer(made, attempt, "q", 0.4, 2)
    assert attempt.done == {0: 2} and attempt.prediction("q") == 0.4
    with pytest.raises(LessonError, match="locked"):
        answer(made, attempt, "q", 0.5, 3)
    answer(made, attempt, "q", 0.5, 4, again=True)
    assert attempt.prediction("q") == 0.4 and [given.value for given in attempt.answers["q"]] == [0.4, 0.5]


def test_what_was_shown_can_no_longer_be_predicted():
    made, attempt = lesson(), Attempt(started=0)
    enter(made, attempt, 2, 1)
    assert attempt.skipped == {0: 1} and attempt.revealed == {"q": 1} and attempt.finished == 1
    with pytest.raises(LessonError, match="has been shown"):
        answer(made, attempt, "q", 0.4, 2)
    complete(attempt, 0, 3)
    assert attempt.skipped == {}
    with pytest.raises(LessonError, match="there is no step 4"):
        enter(made, attempt, 3, 1)


@pytest.mark.parametrize("value", [True, "0.4", float("nan"), -0.1, 1.1, None, [0.4]])
def test_answers_off_the_axis_are_refused(value):
    with pytest.raises(LessonError):
        checked_answer(lesson().asked("q"), value)


def test_each_answer_gets_its_own_sentence():
    score = Quantity("a", "score")
    asked = lesson().asked("q")
    for value, right, because in ((0.62, True, "near"), (0.4, False, "low"), (0.9, False, "high")):
        verdict = judge(asked, value, ["a.score"], {score: 0.7})
        assert (verdict.right, verdict.because) == (right, because)
    asked = lesson(form="choice", choices=CHOICES).asked("q")
    for measured, right in ((0.7, 0), (0.5, 1)):
        assert judge(asked, 0, [], {score: measured}).right == (right == 0)
        assert judge(asked, 1, [], {score: measured}).solutions == (right,)
    assert judge(asked, 1, [], {score: 0.7}).because == "since less"
    asked = lesson(form="curve", x=[1, 2]).asked("q")
    came = {Quantity("a", "cut_score", "1"): 0.2, Quantity("a", "cut_score", "2"): 0.8}
    verdict = judge(asked, [0.1, 0.85], list(map(str, came)), came)
    assert verdict.right and verdict.off == pytest.approx(0.075)
    assert judge(asked, [0.2, 0.1], list(map(str, came)), came).because == "low"


def test_what_was_really_trained():
    check = Check(did="run", where={"variant.rank": {"at_most": 4}, "data.dataset": "pirate", "federated": None})
    assert fits(check, RunConfig.parse({"variant": {"name": "lora", "rank": 4}}))
    assert not fits(check, RunConfig.parse({"variant": {"name": "lora", "rank": 8}}))
    assert not fits(check, RunConfig.parse({"variant": {"name": "full"}})), "no rank is not a low rank"
    assert not fits(check, RunConfig.parse({"federated": {}, "variant": {"name": "lora", "rank": 1}}))
    changed = Check(did="run", where={"training.learning_rate": {"not": None}})
    assert not fits(changed, RunConfig.parse({}))
    assert fits(changed, RunConfig.parse({"training": {"learning_rate": 0.01}}))


def test_progress_is_kept_a_person_and_an_error_keeps_nothing(tmp_path):
    people, made = Learners(tmp_path), lesson()

    def begin(learner):
        attempt = learner.lessons.setdefault("name", Attempt(started=0))
        answer(made, attempt, "q", 0.25, 1)

    people.change("user:../../x", begin)
    with pytest.raises(LessonError):
        people.change("user:../../x", begin)
    assert people.get("other").lessons == {}
    again = Learners(tmp_path).get("user:../../x")
    assert again.lessons["name"].prediction("q") == 0.25 and again.lessons["name"].done == {0: 1}
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "learners"]
    people.path("user:../../x").write_text("{")
    assert Learners(tmp_path).get("user:../../x").lessons == {}
    people.forget("user:../../x")
    assert not list(tmp_path.rglob("*.json"))


def test_many_at_once(tmp_path):
    people = Learners(tmp_path)

    def add(learner):
        learner.lessons[f"l{len(learner.lessons)}"] = Attempt(started=0)

    threads = [threading.Thread(target=lambda: [people.change("one", add) for _ in range(10)]) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(Learners(tmp_path).get("one").lessons) == 80
