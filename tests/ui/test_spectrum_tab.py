"""The handlers of the tab Spectrum, called as the page calls them, without a browser."""

import csv
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from lora_playground.jobs import truncation_curve
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json
from lora_playground.ui import conversation
from lora_playground.ui import spectrum_tools as tools
from lora_playground.ui import spectrum_views as views
from lora_playground.ui.shell import SLOTS, Shell
from lora_playground.ui.spectrum import SpectrumTab
from tests.spectrum_runs import STEPS, finished_run, updates

SHAPES = module_shapes(EMBEDDED)[:14]
MODULE = SHAPES[2][0]
NO_LIMITS: Any = SimpleNamespace(check_kept=lambda who: None, adopt=lambda run, who: None)
UNCUT = ("all", 1, 1, 2, 1.0)


@pytest.fixture
def made(tmp_path):
    runs = [
        finished_run(tmp_path, "small", updates(SHAPES, 2, 0.4, 1, shared=2), {"name": "lora", "rank": 2}),
        finished_run(tmp_path, "large", updates(SHAPES, 8, 0.4, 2, shared=2), {"name": "lora", "rank": 8}),
    ]
    with gr.Blocks():
        shell = Shell(tmp_path, RunStore(tmp_path), NO_LIMITS, gr.State([""] * SLOTS))  # type: ignore[arg-type]
        with gr.Tab("Spectrum") as tab:
            built = SpectrumTab(shell)
            built.build(tab)
    ticked = [run.id for run in runs] + [""] * (SLOTS - len(runs))
    return SimpleNamespace(tab=built, tools=built.tools, ticked=ticked, runs=runs, store=RunStore(tmp_path))


def test_controls_follow_the_ticked_runs_and_keep_what_was_chosen(made):
    small, large = (run.id for run in made.runs)
    _, body, focus, module, step, first, second, timer, *_ = made.tab.choose(
        made.ticked, None, None, 0, "", "", "", *UNCUT
    )
    assert body["visible"] and focus["value"] == small and step["value"] == step["maximum"] == STEPS
    assert {name for _, name in module["choices"]} == {name for name, _, _ in SHAPES}
    assert (first["value"], second["value"]) == (small, large) and timer.active is False
    again = made.tab.choose(made.ticked, large, MODULE, 10, large, small, "", *UNCUT)
    assert again[2]["value"] == large and again[3]["value"] == MODULE and again[4]["value"] == 10
    other = next(name for name, _, _ in SHAPES if name != MODULE)
    assert made.tab.choose(made.ticked, large, MODULE, 10, large, small, other, *UNCUT)[3]["value"] == other
    shorter = made.tab.choose(made.ticked, large, MODULE, 5000, large, small, "", *UNCUT)
    assert shorter[4]["value"] == STEPS, "a step beyond the end is the end"
    none = made.tab.choose([""] * SLOTS, large, MODULE, 10, large, small, "", *UNCUT)
    assert again[10]["visible"] and none[10]["visible"] is False, "nothing is replayed without two steps"
    assert none[1]["visible"] is False and "What did it learn" in none[0]


def test_every_picture_is_drawn(made):
    focus = made.runs[0].id
    assert len(made.tab.top(made.ticked, focus, MODULE, "relative", True, STEPS)) == 4
    assert len(made.tab.pair(made.ticked, MODULE, *made.ticked[:2], "left", True)) == 4
    assert len(made.tab.base(made.ticked, focus, MODULE, 10, 0.5, "left")) == 8
    assert len(made.tab._views(made.ticked, focus, MODULE, "sigma_1", False, STEPS)) == 7


def test_replay_goes_through_the_steps_and_ends(made):
    focus = made.runs[0].id
    step, timer, _ = made.tab.start(made.ticked, focus, STEPS)
    assert step == 0 and timer.active
    seen = []
    while True:
        following, timer, _ = made.tab.advance(made.ticked, focus, step)
        if not isinstance(following, int):
            break
        seen.append(step := following)
    assert seen == [10, 20, 30, 40] and timer.active is False


def test_a_cut_goes_to_chat_and_is_saved(made):
    focus = made.runs[1].id
    chosen = ("range", 0, 2, 3, 0.5)
    tuning, words = made.tools.to_chat(made.ticked, focus, *chosen, {"other": {}})
    assert tuning == {"other": {}, focus: {"strength": 0.5, "keep": None, "cut": [1, 3]}}
    assert "directions 2 to 3 at strength 0.5" in words
    top, _ = made.tools.to_chat(made.ticked, focus, "top", 3, 1, 1, 1.0, None)
    assert top[focus]["cut"] == [0, 3] and top[focus]["keep"] == 3
    said, ticked = made.tools.keep(None, made.ticked, focus, *chosen)
    assert "Saved as the run" in said and ticked[2] not in made.ticked
    assert made.store.get(ticked[2]).result()["derived"]["from"] == focus
    refused, _ = made.tools.keep(None, made.ticked, focus, "top", 0, 1, 1, 1.0)
    assert "nothing is left" in refused


def test_the_weakest_directions_are_those_of_every_module(made):
    focus = made.runs[1].id
    tuning, _ = made.tools.to_chat(made.ticked, focus, "bottom", 3, 1, 1, 1.0, None)
    assert tuning[focus] == {"strength": 1.0, "keep": None, "cut": [-3, 0]}
    nothing, _ = made.tools.to_chat(made.ticked, focus, "bottom", 0, 1, 1, 1.0, None)
    assert nothing[focus]["cut"][0] == nothing[focus]["cut"][1] >= 0


def test_a_cut_is_said_in_the_pane_and_survives_another_strength():
    assert [conversation.cut_words(cut) for cut in (None, [0, 3], [-2, 0], [1, 4], [2, 3], [5, 5])] == [
        "all", "first 3", "last 2", "2 to 4", "no. 3", "none"
    ]  # fmt: skip
    before = {"strength": 1.0, "keep": None, "cut": [1, 4]}
    assert conversation.tuned({"strength": 0.5, "keep": None}, before) == {"strength": 0.5, "keep": None, "cut": [1, 4]}
    assert conversation.tuned({"strength": 0.5, "keep": 2}, before) == {"strength": 0.5, "keep": 2}
    assert conversation.tuned({"strength": 1.0, "keep": None}, {"keep": 3, "cut": [0, 3]}) == {
        "strength": 1.0,
        "keep": None,
    }


def test_the_curve_is_read_while_it_grows(made):
    run = made.runs[0]
    assert "Not measured yet" in made.tools.cut(made.ticked, run.id, *UNCUT)[3]
    points = {"k": [0, 1], "loss": [3.0, 2.0], "score": [0.1, 0.5], "planned": 3, "done": False, "metric": "exact"}
    write_json(run.folder / truncation_curve.FILE, points)
    assert "Measuring, 2 of 3 done" in made.tools.cut(made.ticked, run.id, *UNCUT)[3]
    _, words, timer = made.tools.look(made.ticked, run.id, *UNCUT)
    assert "ended early" in words and timer.active is False, "no process measures it"


def test_import_ticks_the_new_run_or_says_why_not(made, tmp_path):
    good = tmp_path / "mine.zip"
    with zipfile.ZipFile(good, "w") as archive:
        for path in made.runs[0].adapter.iterdir():
            archive.write(path, path.name)
    first, *_, (words, ticked, *_) = made.tools.take_in([str(good)], "", "", made.ticked, None)
    assert "Reading the adapter" in first[0] or "modules done" in first[0], "it says what it does"
    assert "Imported as the run “mine”" in words and ticked[:2] == made.ticked[:2] and ticked[2]
    for files, hub, expected in (([], "", "Choose a zip"), (None, "../x", "no hub id"), ([__file__], "", "neither")):
        *_, (words, *_) = made.tools.take_in(files, hub, "", made.ticked, None)
        assert expected in words


def test_files_are_written_where_the_server_may_send_them(made):
    found = made.tab._subjects(made.ticked)
    path = Path(tools._file("spectra.csv", views.as_csv(views.numbers(found))))
    assert Path(tempfile.gettempdir()) in path.parents and path.name == "spectra.csv"
    with open(path, newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(SHAPES)
