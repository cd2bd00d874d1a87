"""Every shipped lesson played to its end in the engine, with a queue that finishes at once; and what may go wrong."""

import json

import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import LessonError
from lora_playground.lessons import get_lesson, list_lessons
from lora_playground.lessons.player import Player
from tests.lessons.queue import Queue

NAMES = [lesson.name for lesson in list_lessons()]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def made(tmp_path):
    clock = Clock()
    queue = Queue(tmp_path, clock)
    return Player(tmp_path, queue, clock), queue


def act(player, queue, name, view, visitor="ann"):
    """What a step asks for, done; the view afterwards."""
    step = get_lesson(name).steps[view["step"]]
    if view["kind"] == "show":
        return player.report(visitor, name, view["step"], "control" if view["use"] else "tab")
    if view["kind"] == "ask":
        answers = {"choice": 0, "number": 0.5, "curve": [0.5] * len(step.x)}
        assert "because" not in json.dumps(view), "no sentence is shown before the result"
        return player.answer(visitor, name, step.name, answers[step.form])
    if view["kind"] == "run":
        return player.start(visitor, name, view["step"])
    if view["kind"] == "modify":
        check = step.check
        if check.did != "run":
            return player.report(visitor, name, view["step"], check.did, 1)
        variant = {"name": check.where.get("variant.name", "lora"), "rank": 4}
        config = {"data": {"dataset": "pirate"}, "variant": variant, "training": {"steps": 140}}
        for path, wanted in check.where.items():
            section, option = path.split(".")
            if not isinstance(wanted, dict):
                config.setdefault(section, {})[option] = wanted
        run = queue.submit(RunConfig.parse(config), visitor)
        told = queue.runs.get(run.id).result()
        told["score"]["adapted"] = told["forgetting"]["adapted"] = 1.0
        queue.runs.get(run.id).result_path.write_text(json.dumps(told))
        return player.view(visitor, name)
    return view


@pytest.mark.parametrize("name", NAMES)
def test_played_to_its_end(made, name):
    player, queue = made
    view = player.view("ann", name)
    for place in range(len(view["lesson"]["steps"])):
        view = act(player, queue, name, player.view("ann", name, place))
        json.dumps(view, allow_nan=False)
        assert view["step"] == place and view["done"], f"step {place + 1}, {view['title']}"
        if view["kind"] == "reveal":
            assert view["ready"] and view["own"]
            for asked in view["asked"]:
                assert asked["because"] and (asked["form"] != "choice" or len(asked["solutions"]) == 1)
        if view["kind"] == "measure":
            assert all(cell["text"] for row in view["rows"] for cell in row["cells"])
    attempt = player.attempt("ann", name)
    assert sorted(attempt.done) == list(range(place + 1)) and attempt.finished and not attempt.skipped
    assert next(one for one in player.list("ann") if one["name"] == name)["state"] == "finished"
    assert player.attempt("bob", name) is None


@pytest.mark.parametrize("name", NAMES)
def test_skipped_through_it_shows_stored_figures_and_no_sentence_of_the_person(made, name):
    player, _ = made
    for place in range(len(get_lesson(name).steps)):
        view = player.view("ann", name, place)
        assert "not measured" not in json.dumps(view), "every figure of a text was measured"
        if view["kind"] == "reveal":
            assert view["ready"], "stored figures stand in for runs that were not made"
            assert all(asked["answer"] is None and "right" not in asked for asked in view["asked"])
    lesson = get_lesson(name)
    asked = next(step for step in lesson.steps if step.kind == "ask")
    with pytest.raises(LessonError, match="has been shown"):
        player.answer("ann", name, asked.name, [0.5] * len(asked.x) if asked.form == "curve" else 0)


def test_a_failed_run_is_started_anew_and_over_keeps_the_runs(made):
    player, queue = made
    player.start("ann", "what-a-rank-is", 4)
    runs = player.attempt("ann", "what-a-rank-is").runs
    queue.lose(runs["r1"])
    view = player.view("ann", "what-a-rank-is", 4)
    assert [one["state"] for one in view["states"]] == ["failed", "done"] and view["states"][0]["problem"]
    view = player.start("ann", "what-a-rank-is", 4)
    again = player.attempt("ann", "what-a-rank-is").runs
    assert view["done"] and again["r16"] == runs["r16"] and again["r1"] != runs["r1"]
    trained = queue.trained
    view = player.restart("ann", "what-a-rank-is")
    assert view["step"] == 0 and list(player.attempt("ann", "what-a-rank-is").done) == [0]
    assert player.start("ann", "what-a-rank-is", 4)["done"] and queue.trained == trained


def test_an_own_run_counts_only_if_it_does_what_is_asked(made):
    player, queue = made
    name = "what-a-rank-is"
    player.start("ann", name, 4)
    config = {"data": {"dataset": "pirate"}, "variant": {"name": "lora", "rank": 2}}
    queue.submit(RunConfig.parse(config), "ann")  # before the step was entered
    place = next(i for i, step in enumerate(get_lesson(name).steps) if step.kind == "modify")
    assert not player.view("ann", name, place)["done"]
    queue.submit(RunConfig.parse(config), "bob")
    queue.submit(RunConfig.parse({"variant": {"name": "lora", "rank": 8}}), "ann")
    assert not player.view("ann", name)["done"]
    weak = queue.submit(RunConfig.parse(config), "ann")
    told = queue.runs.get(weak.id).result()
    told["score"]["adapted"] = 0.0
    queue.runs.get(weak.id).result_path.write_text(json.dumps(told))
    view = player.view("ann", name)
    assert not view["done"] and "score 0%" in view["said"]
    queue.submit(RunConfig.parse(config), "ann")
    assert player.view("ann", name)["done"]


def test_a_federated_run_of_ones_own_counts_only_if_its_error_is_as_small_as_asked(made):
    player, queue = made
    name = "mean-of-products"
    steps = get_lesson(name).steps
    player.start("ann", name, next(i for i, step in enumerate(steps) if step.kind == "run"))
    place = next(i for i, step in enumerate(steps) if step.kind == "modify")
    assert not player.view("ann", name, place)["done"]
    for change in ({"partition": "topic"}, {"clients": 1}, {"strategy": "fedex"}):
        federated = {"strategy": "fedit", "clients": 5, "partition": "iid"} | change
        queue.submit(RunConfig.parse({"data": {"dataset": "facts-small"}, "federated": federated}), "ann")
        assert not player.view("ann", name)["done"], change
    assert "aggregation error 30%" in player.view("ann", name)["said"]
    queue.submit(RunConfig.parse({"federated": {"strategy": "fedit", "clients": 5, "partition": "iid"}}), "ann")
    assert player.view("ann", name)["done"]


def test_runs_in_a_table_are_told_apart_by_what_differs(made):
    player, _ = made
    places = {
        name: next(i for i, step in enumerate(get_lesson(name).steps) if step.kind == "measure") for name in NAMES[:3]
    }
    titles = {name: [row["title"] for row in player.view("ann", name, place)["rows"]] for name, place in places.items()}
    assert titles["what-a-rank-is"] == ["rank 1", "rank 16"]
    assert titles["facts-need-room"] == [f"rank {rank}" for rank in (1, 2, 4, 8, 16)]
    assert titles["cut-it"] == ["pirate, rank 16", "facts, rank 16"], "nothing is shared"


def test_nameless_adapters_tell_nothing_of_their_data(made):
    player, queue = made
    name = "guess-the-adapter"
    place = next(i for i, step in enumerate(get_lesson(name).steps) if step.kind == "run")
    for visitor in ("ann", "bob"):
        view = player.start(visitor, name, place)
        assert view["done"] and [one["title"] for one in view["states"]] == [f"Adapter {c}" for c in "ABCDEF"]
    assert queue.trained == 6, "trained once for all"
    shown = [run for run in queue.runs.list() if not run.hidden]
    assert sorted(one["run"] for one in view["states"]) == sorted(run.id for run in shown)
    for run in shown:
        files = "".join(path.read_text() for path in run.folder.glob("*.json*"))
        assert run.config().data.dataset == "imported" and "score" not in run.result()
        assert not any(dataset in files for dataset in ("pirate", "translation", "sentiment", "summary", "facts"))
