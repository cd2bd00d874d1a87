"""Classes: who may do what, what is held, what is counted, what is written out, and that all of it can be deleted."""

import csv
import io

import pytest

from lora_playground.classroom import Classes
from lora_playground.classroom.overview import Overview, for_a_person
from lora_playground.classroom.table import COLUMNS, table
from lora_playground.errors import LessonError
from lora_playground.lessons import progress
from lora_playground.lessons.catalogue import get_lesson
from lora_playground.lessons.measuring import Measuring
from lora_playground.lessons.progress import Attempt, Learners
from lora_playground.lessons.schema import Ask
from lora_playground.runs import RunStore

LESSON = "what-a-rank-is"
TEACHER, ANN, BEN = "t" * 16, "a" * 16, "b" * 16


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def learners(tmp_path) -> Learners:
    return Learners(tmp_path)


@pytest.fixture
def classes(tmp_path, learners, clock) -> Classes:
    return Classes(tmp_path, learners, clock)


@pytest.fixture
def code(classes) -> str:
    return classes.open(TEACHER, LESSON).code


def predict(learners: Learners, visitor: str, value: float, now: float, again: bool = False) -> None:
    """The first question of the lesson, answered by one person."""
    lesson = get_lesson(LESSON)
    asked = next(step for step in lesson.steps if isinstance(step, Ask))

    def do(learner: progress.Learner) -> None:
        attempt = learner.lessons.setdefault(LESSON, Attempt(started=now - 5))
        progress.enter(lesson, attempt, lesson.steps.index(asked), now)
        progress.answer(lesson, attempt, asked.name, value, now, again)

    learners.change(visitor, do)


def test_only_the_teacher_leads_and_only_who_joined_attends(classes, code) -> None:
    classes.join(ANN, code.lower(), "  Ann ")
    assert [person.name for person in classes.attended(ANN, code).people] == ["Ann"]
    for act in (
        lambda: classes.hold(ANN, code, 2), lambda: classes.end(ANN, code), lambda: classes.delete(ANN, code),
        lambda: classes.taught("", code), lambda: classes.attended(BEN, code), lambda: classes.attended(TEACHER, code),
        lambda: classes.join(BEN, code, " "), lambda: classes.join(BEN, code, "ANN"),
        lambda: classes.join(BEN, "NOPE", "Ben"),
        lambda: classes.hold(TEACHER, code, 99), lambda: classes.ask_again(TEACHER, code, "weather"),
        lambda: classes.open(TEACHER, "no-such-lesson"),
    ):  # fmt: skip
        with pytest.raises(LessonError):
            act()


def test_what_the_teacher_holds_is_each_persons_limit_until_it_is_let_go(classes, code) -> None:
    classes.join(ANN, code, "Ann")
    classes.hold(TEACHER, code, 2)
    assert classes.limit(ANN, LESSON) == 2
    assert classes.limit(BEN, LESSON) is None and classes.limit(ANN, "another") is None
    assert classes.gather(TEACHER, code, 3).gathered == (1, 3)
    assert classes.gather(TEACHER, code, 3).gathered == (2, 3), "a second time is told apart from the first"
    classes.hold(TEACHER, code, None)
    assert classes.limit(ANN, LESSON) is None
    classes.hold(TEACHER, code, 1)
    classes.end(TEACHER, code)
    assert classes.limit(ANN, LESSON) is None


def test_a_class_survives_a_restart_and_damaged_files_are_passed_over(tmp_path, classes, code, learners) -> None:
    classes.join(ANN, code, "Ann")
    classes.hold(TEACHER, code, 2)
    (tmp_path / "classes" / "BROKEN.json").write_text("{")
    anew = Classes(tmp_path, learners)
    assert anew.attended(ANN, code).held == 2 and anew.taught(TEACHER, code).people[0].name == "Ann"


def test_answers_are_counted_and_told_to_those_who_have_answered(tmp_path, classes, code, learners, clock) -> None:
    for visitor, name in ((ANN, "Ann"), (BEN, "Ben")):
        classes.join(visitor, code, name)
    overview = Overview(tmp_path, learners, Measuring(RunStore(tmp_path)))
    predict(learners, ANN, 0.25, 1010)
    course = classes.taught(TEACHER, code)
    first = overview.questions(course)[0]
    assert first["first"] == [{"number": 1, "value": 0.25}] and first["later"] == []
    tell = lambda who: for_a_person(course, who, overview.questions(course), learners.get(who).lessons.get(LESSON))  # noqa: E731
    assert [one["first"] for one in tell(ANN)["answers"]] == [[0.25]]
    assert tell(BEN)["answers"] == [], "nobody sees answers before giving one"
    predict(learners, BEN, 0.75, 1020)
    assert tell(BEN)["answers"][0]["first"] == [0.25, 0.75]
    assert "Ann" not in str(tell(BEN)), "answers have no names"

    clock.now = 1030.0
    course = classes.ask_again(TEACHER, code, first["name"])
    assert tell(ANN)["again"] == [first["name"]]
    predict(learners, ANN, 0.5, 1040, again=True)
    assert tell(ANN)["again"] == []
    counted = overview.questions(course)[0]
    assert [one["value"] for one in counted["first"]] == [0.25, 0.75] and counted["later"] == [
        {"number": 1, "value": 0.5}
    ]
    grid = overview.grid(course)
    place = counted["step"]
    assert [row["steps"][place] for row in grid["people"]] == ["done", "done"] and grid["steps"][place]["done"] == 2


def test_the_table_has_every_answer_and_is_safe_in_a_spreadsheet(tmp_path, classes, code, learners) -> None:
    classes.join(ANN, code, "=HYPERLINK(1)")
    predict(learners, ANN, 0.25, 1010)
    overview = Overview(tmp_path, learners, Measuring(RunStore(tmp_path)))
    course = classes.taught(TEACHER, code)
    rows = list(csv.DictReader(io.StringIO(table(course, get_lesson(LESSON), overview.people(course)))))
    assert tuple(rows[0]) == COLUMNS
    answers = [row for row in rows if row["what"] == "answer"]
    assert [(row["name"], row["answer"], row["attempt"], row["seconds"]) for row in answers] == [
        ("'=HYPERLINK(1)", "0.25", "1", "5.0")
    ]
    nameless = table(course, get_lesson(LESSON), overview.people(course), names=False)
    assert "HYPERLINK" not in nameless and "0.25" in nameless


def test_deleting_takes_names_and_answers_but_not_what_was_done_before(
    tmp_path, classes, code, learners, clock
) -> None:
    predict(learners, ANN, 0.25, 900)
    classes.join(ANN, code, "Ann")
    classes.join(BEN, code, "Ben")
    predict(learners, ANN, 0.5, 1010, again=True)
    predict(learners, BEN, 0.75, 1010)
    classes.delete(TEACHER, code)
    assert [given.value for given in next(iter(learners.get(ANN).lessons[LESSON].answers.values()))] == [0.25]
    assert learners.get(BEN).lessons == {}
    assert not list((tmp_path / "classes").glob("*.json"))
    with pytest.raises(LessonError):
        classes.taught(TEACHER, code)
