"""The upload's and the estimates' pure parts: columns chosen on screen, what is listed by line, cost told ahead."""

import json
import re

import pytest

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.errors import ConfigError
from lora_playground.estimates.memory import seen_overhead
from lora_playground.estimates.parameters import modules_of
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json
from lora_playground.ui import cards, upload
from lora_playground.ui.model_step import note as model_note

NO_ROLES = ["", "", "", ""]


def taken(home, path, roles=(), seed=0, labels=False):
    """What `_take` says: (columns shown, values of the four roles, note, dataset's name or None)."""
    columns, *found, _, note, _, stored = upload._take(home, str(path), list(roles), seed, labels)
    values = [update.get("value") for update in found]
    return columns.get("visible"), values, note, stored if isinstance(stored, str) else None


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "daten.csv"
    rows = "".join(f"Frage {n},Antwort {n},Text {n},Sei kurz\n" for n in range(20))
    path.write_text("Frage,Antwort,Stoff,Rolle\n" + rows)
    return path


def test_columns_are_chosen_on_screen(table, tmp_path):
    shown, values, note, stored = taken(tmp_path, table)
    assert shown and stored is None and "the columns found are" in note and values == NO_ROLES
    shown, values, note, stored = taken(tmp_path, table, ["Frage", "Antwort", "Stoff", "Rolle"])
    assert shown and values == ["Frage", "Antwort", "Stoff", "Rolle"] and "20 rows read" in note
    first = get_dataset(stored, tmp_path).train[0]["messages"]
    assert [turn["role"] for turn in first] == ["system", "user", "assistant"]
    assert first[1]["content"].startswith("Frage") and "\n\nText" in first[1]["content"]


def test_a_column_without_answers_is_text_or_a_chat(table, tmp_path):
    _, values, _, stored = taken(tmp_path, table, ["Stoff", "", "", ""])
    assert get_dataset(stored, tmp_path).train[0]["text"].startswith("Text ") and values == ["Stoff", "", "", ""]
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = tmp_path / "talks.jsonl"
    path.write_text((json.dumps({"talk": chat, "id": 3}) + "\n") * 5)
    _, _, _, stored = taken(tmp_path, path, ["talk", "", "", ""])
    assert get_dataset(stored, tmp_path).train[0]["messages"] == chat
    _, _, note, stored = taken(tmp_path, table, ["", "Antwort", "", ""])
    assert stored is None and "Choose which column asks" in note


def test_the_seed_splits_anew(table, tmp_path):
    roles = ["Frage", "Antwort", "", ""]
    parts = [get_dataset(taken(tmp_path, table, roles, seed)[3], tmp_path).test for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_what_cannot_be_used_is_listed_by_line(tmp_path):
    lines = [json.dumps({"question": f"q{n % 18}", "answer": f"a{n % 18} <b>"}) for n in range(20)]
    lines[4], lines[6] = '{"question": "q", "answer": ""}', "{"
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines))
    note = taken(tmp_path, path)[2]
    assert "2 rows were left out" in note and "line 5: &#x27;answer&#x27; is empty" in note and "line 7: " in note
    assert "2 rows repeat earlier ones; they were kept" in note and "Lines 19, 20." in note


def test_nothing_chosen(tmp_path):
    for origin in (None, "", ("", "train")):
        assert "Choose a file, or name a dataset of the hub" in upload._take(tmp_path, origin, [], 0)[6]
    assert "is no id of a hub dataset" in upload._take(tmp_path, ("gsm8k", "train"), [], 0)[6]


def test_labels_are_found_or_said_on_screen(tmp_path):
    found, said = tmp_path / "found.csv", tmp_path / "said.csv"
    rows = "".join(f"Рейс {n},{('да', 'нет')[n % 2]},x\n" for n in range(30))
    found.write_text("text,label,id\n" + rows)
    said.write_text("рейс,метка,id\n" + rows)
    _, values, note, stored = taken(tmp_path, found)
    assert values[:2] == ["text", "label"] and "да (15), нет (15)" in note and "not used: id" in note
    assert upload._take(tmp_path, str(found), [], 0)[5] is True and get_dataset(stored, tmp_path).card.metric == "label"
    assert taken(tmp_path, said)[3] is None
    _, _, note, stored = taken(tmp_path, said, ["рейс", "метка", "", ""], labels=True)
    assert get_dataset(stored, tmp_path).card.metric == "label" and "да (15), нет (15)" in note
    _, _, note, stored = taken(tmp_path, said, ["рейс", "метка", "", "id"], labels=True)
    assert stored is None and "would have no effect" in note


def test_a_column_without_effect_is_refused(table, tmp_path):
    _, _, note, stored = taken(tmp_path, table, ["Stoff", "", "", "Rolle"])
    assert stored is None and "would have no effect" in note


def test_time_is_said_as_a_range_with_its_grounds():
    from lora_playground.estimates.time import TimeEstimate
    from lora_playground.ui.costs import time_line

    seen = TimeEstimate((28.2, 44.4), (60, 60), "runs", 3)
    guess = TimeEstimate((11.2, 72.6), (60, 60), "processor")
    assert "About 28 to 44 s from start to result, going by the last 3 runs of this model and method" in time_line(
        [seen]
    )
    assert "About a minute from start to result, going by this processor" in time_line([guess])
    far = TimeEstimate((220.0, 6600.0), (60, 60), "model", 1)
    assert "Minutes to hours from start to result, going by the last run of another model" in time_line([far])
    both = time_line([seen, guess])
    assert "2 runs, one after another: about 39 s to 2 min from start" in both and "this processor" in both
    timed = time_line([TimeEstimate((36.0, 39.0), (48, 75), "method", 1)], timed=True)
    assert "About 39 s from start to result, for 48 to 75 steps, going by the last run of this model with an" in timed
    assert "after the first run" in time_line([seen, None]) and "time is up" in time_line([None], timed=True)


def test_spans_of_time():
    from lora_playground.ui.words import span

    said = [(0.8, 1.3), (28, 28.1), (50, 133), (473, 2596), (3700, 8000), (9.2, 14)]
    assert [span(*pair) for pair in said] == [
        "0.8 to 1.3 s", "28 s", "50 s to 2 min 10 s", "7 min 50 s to 43 min", "1 h 0 min to 2 h 15 min", "9.2 to 14 s",
    ]  # fmt: skip


def test_a_time_is_told_only_as_exactly_as_it_is_known():
    from lora_playground.ui.words import expected, rough

    said = [(1, 3), (28, 44), (11, 72), (40, 500), (220, 6600), (4e5, 4e6), (3e4, 8e4), (2e7, 4e8), (1e-3, 9e4)]
    assert [expected(*pair) for pair in said] == [
        "a few seconds", "about 28 to 44 s", "about a minute", "seconds to minutes", "minutes to hours",
        "more than a day", "about 8 h 20 min to 22 h 15 min", "more than a day", "seconds to days",
    ]  # fmt: skip
    assert [rough(seconds) for seconds in (0, 10, 30, 60, 230, 700, 2000, 4000, 20_000, 1e6)] == [
        "a few seconds", "about ten seconds", "about half a minute", "about a minute", "about 4 minutes",
        "about 10 minutes", "about half an hour", "about an hour", "about 6 hours", "more than a day",
    ]  # fmt: skip


def test_steps_are_told_as_passes_and_arithmetic_too():
    from lora_playground.ui.costs import budget_line

    said = budget_line(RunConfig.parse({}), 2.74, 13.52e9)
    assert "About 2.7 passes (epochs) over the training rows; about 13.5B floating-point" in said and "LoRA" in said
    assert "passes" not in budget_line(RunConfig.parse({}), None, 26.4e6) and budget_line(RunConfig(), None, None) == ""


def test_the_form_says_which_value_is_not_possible():
    from lora_playground.ui.costs import refused

    for given, said in ((-5, "Steps: -5 is not possible; it must be at least 1."),
                        (99_999_999, "Steps: 99999999 is not possible; it must be at most 1,000,000."),
                        (2.5, "Steps: 2.5 is not possible; it must be a whole number.")):  # fmt: skip
        with pytest.raises(ConfigError) as failure:
            RunConfig.parse({"training": {"steps": given}})
        assert said in refused(failure.value)


def test_models_of_the_list_are_described_before_they_are_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "Licence Llama 3.2 Community" in model_note("meta-llama/Llama-3.2-1B-Instruct")
    assert "accept its licence on its hub page" in model_note("meta-llama/Llama-3.2-1B-Instruct")
    assert "gated" not in model_note("Qwen/Qwen3-0.6B") and "fetched when the run starts" in model_note(
        "Qwen/Qwen3-0.6B"
    )
    assert "on this disk" in model_note("embedded")
    found = modules_of("Qwen/Qwen3-0.6B")
    assert len(found.linear) == 28 * 7 and 590e6 < found.total < 600e6
    assert modules_of("nobody/nothing") is None


def test_what_does_not_fit_the_base_or_the_memory_is_said_in_the_form():
    from lora_playground.machine.device import Device
    from lora_playground.ui.costs import check, panel

    machine = Device("cpu", "CPU, 2 cores", 0, 10**10)
    given = {"model": {"quantisation": "4bit"}, "variant": {"name": "hra"}}
    with pytest.raises(ConfigError, match="needs a base stored in 16 bit"):
        check(RunConfig.parse(given))
    with pytest.raises(ConfigError, match="999"):
        check(RunConfig.parse({"variant": {"name": "lora", "rank": 999}}))
    check(
        RunConfig.parse({"variant": {"name": "lora", "rank": 999}, "model": {"source": "nobody/nothing"}})
    )  # its sizes are not known
    assert "good" in panel(RunConfig.parse(given | {"variant": {"name": "lora"}}), machine)[0]
    small = panel(RunConfig.parse({}), Device("cpu", "CPU, 2 cores", 0, 10**8))[0]
    assert "bad" in small and "more than the 100 MB here. What helps most: " in small


def test_what_the_process_takes_is_a_range_and_then_what_runs_here_took(tmp_path):
    from lora_playground.machine.device import Device
    from lora_playground.ui.costs import between, panel

    machine, store, config = Device("cpu", "CPU, 2 cores", 0, 10**10), RunStore(tmp_path), RunConfig.parse({})
    assert seen_overhead(store, "embedded") is None
    said, table = panel(config, machine, None)
    assert re.search(r"Needs about \d+ MB to 1\.\d+ GB of 10\.0 GB", said) and "700 MB to 1.07 GB" in table
    for source, whole in (("embedded", 9e8), ("embedded", 8e8), ("Qwen/Qwen3-0.6B", 5e9), ("embedded", 0)):
        run = store.create(RunConfig.parse({"model": {"source": source}}))
        write_json(run.result_path, {"peak_memory_bytes": whole, "tensor_memory_bytes": 1e8})
    assert seen_overhead(store, "embedded") == (700_000_000, 800_000_000)
    _, table = panel(config, machine, seen_overhead(store, "embedded"))
    assert "700 to 800 MB" in table and "runs of this model took here" in table
    tight = panel(config, Device("cpu", "CPU, 2 cores", 0, 10**9), None)[0]
    assert "which may be more than the 1.00 GB here" in tight
    assert between(800e6, 1.2e9) == "800 MB to 1.20 GB" and between(1e9, 1.01e9) == "1.01 GB"


def test_the_result_lays_the_estimate_beside_the_same_thing():
    said = cards.done("a", {"tensor_memory_bytes": 2e8, "estimated_memory_bytes": 2.1e8, "peak_memory_bytes": 9e8})
    assert "memory of all tensors (estimated: 210 MB)</dt><dd>200 MB" in said
    assert "whole process, at most</dt><dd>900 MB" in said
    assert "start to result" not in said
    timed = {"seconds": {"loading": 2.0, "training": 30.0, "evaluating": 6.0}, "forecast_seconds": [28.2, 44.4]}
    assert "start to result (forecast: 28 to 44 s)</dt><dd>38 s" in cards.done("a", timed)
    assert "memory of all tensors" not in cards.done("a", {"peak_memory_bytes": 9e8, "estimated_memory_bytes": 1})
