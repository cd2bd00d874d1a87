"""Mixtures scored over their weights and dials, on a tiny base: structure, controls, and numbers against dense ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_playground.analysis.merging import Recipe
from lora_playground.analysis.moments import MOMENTS, Moments
from lora_playground.analysis.spectra import update_svd
from lora_playground.analysis.update import Update, load_updates, matrix_ranks, save_updates
from lora_playground.cli import main
from lora_playground.config import ModelConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.preparation import prepare
from lora_playground.errors import ConfigError, RunError
from lora_playground.jobs.execution import start_batches
from lora_playground.lab import dials
from lora_playground.lab.dials import over_dial
from lora_playground.lab.forecast import Leading, beside, first_gradients, forecast
from lora_playground.lab.mixing import mixed
from lora_playground.lab.process import work
from lora_playground.lab.slices import over_position
from lora_playground.lab.weights import agreement, grid, over_weights
from lora_playground.models.activations import responses
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import load_base
from lora_playground.models.placed_update import named_modules
from lora_playground.plots.dials import describe_dial, dial_figure
from lora_playground.plots.forecast import describe_forecast, foretold_figure, over_steps_figure, scree_figure
from lora_playground.plots.mixtures import mixture_figure
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json
from lora_playground.ui import lab_forecast
from lora_playground.ui.lab_merge_words import sentence, table
from lora_playground.variants.data_start import model_inputs
from tests.chat.conftest import House, make_house
from tests.spectrum_runs import finished_run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("lab"))


def test_scores_over_the_weights(home: House) -> None:
    store = RunStore(home.home)
    ids = [home.runs["low"], home.runs["high"]]
    chosen = mixed(store, ids, [1.0, -0.5], Recipe("core_ties"))
    seen: list[tuple[int, int]] = []
    found = over_weights(store, chosen, 4, lambda done, of: seen.append((done, of)))
    kinds = [point["kind"] for point in found["points"]]
    assert kinds == ["grid"] * 5 + ["asked", "mean", "random", "random"] and seen[-1][0] == seen[-1][1] == len(seen)
    assert found["points"][5]["weights"] == [1.0, -0.5]
    assert [score is None for score in found["points"][7]["scores"]] == [False, True]
    assert {(pair["first"], pair["second"]) for pair in found["pairs"]} == {(0, 1), (1, 0)}
    assert found["pairs"][0]["on_data"] > 0 and found["pairs"][0]["cosine"] == pytest.approx(
        found["pairs"][1]["cosine"]
    )
    names = [run.label for run in chosen.runs]
    json.dumps(mixture_figure(found, names, ["#000", "#111"]), allow_nan=False)
    assert "4 rows each" in sentence(found, names) and table(found, names).count("<td>") == 14


def test_three_tasks_stand_in_one_triangle_as_bars_as_high_as_their_scores() -> None:
    def score(value: float) -> dict[str, float]:
        return {"value": value, "low": value / 2, "high": (1 + value) / 2, "base": 0.0, "n": 4}

    corners = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3]]
    points = [{"kind": "grid", "weights": w, "scores": [score(round(one, 2)) for one in w]} for w in corners]
    points.append({"kind": "asked", "weights": [1.0, 1.0, 0.5], "scores": [score(0.75), score(0.0), score(0.5)]})
    alike = [[score(0.9) if i == task else None for i in range(3)] for task in range(3)]
    points += [{"kind": "random", "weights": [1.0, 1.0, 0.5], "scores": scores} for scores in alike]
    tasks = [{"run": name, "label": name, "dataset": name, "index": i} for i, name in enumerate("abc")]
    shown = mixture_figure({"points": points, "tasks": tasks, "rows": 4}, ["a", "b", "c"], ["#000", "#111", "#222"])
    json.dumps(shown, allow_nan=False)
    bars = {trace["name"]: trace for trace in shown["data"] if trace.get("fill")}
    assert bars.pop("100%")["x"].count(None) == 18, "three frames at each of six places"
    assert [bars[f"{name}: its task"]["fillcolor"] for name in "abc"] == ["#000", "#111", "#222"], "as everywhere"
    for task, trace in enumerate(bars.values()):
        heights = [trace["y"][k + 1] - trace["y"][k] for k in range(0, len(trace["y"]), 6)]
        scores = [point["scores"][task]["value"] for point in points[:5]] + [0.9]
        np.testing.assert_allclose(heights, [0.2 * one for one in scores], atol=2e-3)
    told = [text for trace in shown["data"] for text in trace.get("customdata", ())]
    assert "1 : 1 : 0.5<br>75% [38%, 88%]" in told and "beside random<br>90% [45%, 95%]" in told


def test_on_data_is_what_a_dense_update_does_to_what_modules_read(home: House) -> None:
    store = RunStore(home.home)
    base = load_base(ModelConfig(source=str(home.base), quantisation="none"), device="cpu", dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    one, two = (load_updates(store.get(home.runs[name]).update_path) for name in ("low", "dense"))
    texts = [[3, 5, 7, 9], [2, 4]]
    found = responses(decoder, texts, RowUpdate(decoder.adapter(one)), [one, two])
    modules, squares = named_modules(base.model), [0.0, 0.0]
    with torch.no_grad():  # the first adapter merged into W; hooks see what the modules then read
        for update in one:
            modules[update.name].weight += torch.tensor(update.matrix(), dtype=torch.float32)
    hooks = []
    for side, updates in enumerate((one, two)):
        for update in updates:
            dense = update.matrix()

            def note(module: Any, given: Any, dense: np.ndarray = dense, side: int = side) -> None:
                squares[side] += float(np.sum((given[0][0].detach().double().numpy() @ dense.T) ** 2))

            hooks.append(modules[update.name].register_forward_pre_hook(note))
    for ids in texts:
        base.model(input_ids=torch.tensor([ids]))
    assert np.allclose(found, np.sqrt(squares), rtol=1e-4)


def test_dials_begin_at_the_base_and_pass_through_the_run(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    found = over_dial(RunStore(home.home), home.runs["low"], "strength", [0.0, 1.0, -2.0], rows=4)
    base, trained, _ = (point["score"] for point in found["points"])
    assert base["value"] == base["base"] == trained["base"] and [p["value"] for p in found["points"]] == [0, 1, -2]
    assert dial_figure(found)["data"] and "As trained" in describe_dial(found)
    whole = over_dial(RunStore(home.home), home.runs["low"], "intruders", [0.0, 1.0], rows=4)
    assert whole["points"][1]["score"] == trained and sum(whole["intruders"].values()) > 0
    asked: list[float] = []
    monkeypatch.setattr(dials, "_turned", lambda *_: (lambda factor: asked.append(factor) or [], {"intruders": {}}))
    none = over_dial(RunStore(home.home), home.runs["low"], "intruders", [0.0, 1.0, 2.0], rows=4)
    assert asked == [0.0] and len({point["score"]["value"] for point in none["points"]}) == 1, "none to be scaled"
    assert len(none["points"]) == 3 and "changes nothing" in describe_dial(none)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="from 0 to 2"):
        over_dial(RunStore(home.home), home.runs["low"], "intruders", [-1.0])


def test_work_in_a_process_of_its_own_says_what_went_wrong(home: House) -> None:
    task = {"kind": "dial", "run": home.runs["empty"], "of": "strength", "rows": 4}
    with pytest.raises(RunError, match="no saved update"):
        list(work(home.home, task))
    task["run"] = home.runs["low"]
    *steps, last = list(work(home.home, task))
    assert [step["done"] for step in steps] == list(range(1, 9)) and last["found"]["kind"] == "strength"


def test_commands(home: House, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--home", str(home.home), "--json"]
    low, high = home.runs["low"], home.runs["high"]
    assert main(["merge", f"{low}=0.5", f"{high}=-1", "--method", "svd", "--rank", "3", "--save", "mix", *given]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["rank"] == 3 and [part["weight"] for part in value["runs"]] == [0.5, -1.0]
    saved = load_updates(RunStore(home.home).get(value["saved"]).update_path)
    adapters = [load_updates(RunStore(home.home).get(id).update_path) for id in (low, high)]
    whole = 0.5 * adapters[0][0].matrix() - adapters[1][0].matrix()
    U, s, Vt = np.linalg.svd(whole)
    assert np.allclose(saved[0].matrix(), (U[:, :3] * s[:3]) @ Vt[:3], atol=1e-5 * s[0])
    assert value["norm"] == pytest.approx(np.sqrt(sum(np.sum(u.matrix() ** 2) for u in saved)), rel=1e-5)
    name = "model.layers.0.mlp.down_proj"
    assert main(["direction", high, "--module", name, "--index", "2", *given]) == 0
    read = json.loads(capsys.readouterr().out)
    update = next(u for u in adapters[1] if u.name == name)
    assert read["sigma"] == pytest.approx(update_svd(update)[1][1]) and set(read["answers"]) == {
        "base", "whole", "alone", "without", "random",
    }  # fmt: skip
    assert main(["merge", f"{low}=3", high, *given]) == 1 and "from -2 to 2" in capsys.readouterr().err
    assert main(["merge", low, "--method", "sum", *given]) == 1 and "2 to 4" in capsys.readouterr().err


def test_grids_and_agreement() -> None:
    for count in (2, 3):
        for kind, weights in grid(count, [1.0] * count):
            assert len(weights) == count and (kind == "asked" or sum(weights) == pytest.approx(1))
    pairs = [{"cosine": c, "reads": 0.1, "writes": -c, "on_data": c * c, "drop": c} for c in (0.1, 0.2, 0.3, 0.5, 0.9)]
    assert agreement(pairs) == {"cosine": 1.0, "writes": -1.0, "on_data": 1.0} and agreement(pairs[:4]) == {}
    both = [pair | {"cosine": (0.1, 0.1, 0.2, 0.2, 0.3)[i]} for i, pair in enumerate(pairs)]
    noisy = [pair | {"cosine": pair["cosine"] + 1e-13 * (-1) ** i} for i, pair in enumerate(both)]
    assert agreement(noisy) == agreement(both), "the last digits of equal numbers rank nothing"


def test_runs_of_the_slice_family_over_their_position(tmp_path: Path) -> None:
    """Points are the runs that differ in position and seed alone."""
    noise = np.random.default_rng(0)
    update = [Update("model.layers.0.mlp.down_proj", noise.standard_normal((256, 2)), noise.standard_normal((2, 704)))]
    for position, score in ((1.0, 0.7), (0.0, 0.9), (0.5, 0.8)):
        variant = {"name": "wslice", "rank": 2, "position": position}
        run = finished_run(tmp_path, f"at {position}", update, variant, score=score, drop=score / 10)
        result = run.result() or {}
        result["score"] |= {"low": 0.6, "high": 0.95}
        result["forgetting"] |= {"low": 0.0, "high": 0.2}
        write_json(run.result_path, result)
    other = finished_run(tmp_path, "another rank", update, {"name": "wslice", "rank": 4, "position": 0.2})
    plain = finished_run(tmp_path, "plain", update, {"name": "lora", "rank": 2})
    found = over_position(RunStore(tmp_path), run.id)
    assert [(p["value"], p["score"]["value"]) for p in found["points"]] == [(0.0, 0.9), (0.5, 0.8), (1.0, 0.7)]
    assert "most at 1 (83%)" in describe_dial(found) and len(dial_figure(found)["data"]) == 2
    unasked = found | {"points": [point | {"forgetting": None} for point in found["points"]]}  # on a real base
    assert "solved by 90% at 0, 80% at 0.5, 70% at 1." in describe_dial(unasked)
    assert dial_figure(unasked)["layout"]["title"]["text"] == "Its task over the slice of W"
    first = found["points"][0]
    again = first | {"seed": 1, "score": first["score"] | {"value": 0.5}}
    points, line, *_ = dial_figure(found | {"points": [first, again, *found["points"][1:]]})["data"]
    assert points["y"][:2] == [0.9, 0.5] and line["x"] == [0.0, 0.5, 1.0] and line["y"][0] == pytest.approx(0.7)
    for run_id, words in ((plain.id, "Slice of W"), (other.id, "no two positions")):
        with pytest.raises(RunError, match=words):
            over_position(RunStore(tmp_path), run_id)


def test_the_first_gradient_is_autograds_and_foretells_one_step_of_descent(home: House) -> None:
    """G₀ against finite differences of the loss, and a ΔW made of G₀'s own leading directions is foretold whole."""
    run = RunStore(home.home).get(home.runs["low"])
    names = [update.name for update in load_updates(run.update_path)]
    grads = first_gradients(run, RunStore(home.home), names, lambda *_: None)
    assert grads.keys() == set(names)
    name = names[3]
    U, values, Vt = np.linalg.svd(grads[name])
    first, last = (-U[:, :3], values[:3], Vt[:3]), (U[:, -3:], values[:3], Vt[-3:])
    along = beside(first, Leading.of(grads[name], first))
    assert along["foretold"] == 3 and np.allclose(along["reads"] + along["writes"], 1, atol=1e-3)
    against = beside(last, Leading.of(grads[name], last))
    assert against["foretold"] == 0 and max(against["writes"]) < 1e-6
    # A small step against G₀ lowers the loss by its squared norm, to first order.
    losses = []
    for size in (0.0, 1e-3):
        base = load_base(run.config().model, dtype="float32")
        with torch.no_grad():
            named_modules(base.model)[name].weight -= size * torch.tensor(grads[name])
        config = run.config()
        data = get_dataset(config.data.dataset, home.home)
        prepared = prepare(base.tokenizer, data, config.data, config.training.seed, False)
        batches = start_batches(prepared, base.tokenizer.pad_token_id)
        with torch.no_grad():
            given = [model_inputs(batch, base.model, labels=True) for batch in batches]
            losses.append(float(np.mean([float(base.model(**one).loss) for one in given])))
    assert (losses[0] - losses[1]) / 1e-3 == pytest.approx(float(np.sum(values**2)), rel=0.1)
    # A moment of the run at which it had learned what the gradient says, unlike at its end.
    Moments(run.folder / MOMENTS, 40).keep(4, [Update(name, -U[:, :2] * values[:2], Vt[:2])])
    found = forecast(RunStore(home.home), home.runs["low"])
    (moment,) = found["moments"]
    assert (moment["step"], moment["foretold"], moment["of"]) == (4, 2, 2)
    assert moment["writes"] == pytest.approx(1, abs=2e-3) and moment["modules"][name]["learned"][0] > 0
    assert found["of"] == 2 * len(names) and 0 <= found["foretold"] <= found["of"]
    module = found["modules"][name]
    assert len(scree_figure(module, module["learned"], "at the end")["data"]) == 2
    shown = lab_forecast._steps(found, [{"step": 4, "spectra": {}}, {"step": 40, "spectra": {}}])
    assert [one["step"] for one in shown] == [4, 40]
    moment, at = lab_forecast._moment(found | {"steps": shown}, 0)
    bars = foretold_figure(module, moment["modules"][name], at)
    assert (
        bars["data"][1]["y"] == moment["modules"][name]["writes"] and "after step 4" in bars["layout"]["title"]["text"]
    )
    assert "After step 4, 2 of 2 directions" in describe_forecast(found, name, moment, at)
    over = over_steps_figure(found, shown, 0)["data"]
    assert over[2]["x"] == [4, 40] and over[2]["y"] == [1, found["foretold"] / found["of"]]
    json.dumps(over, allow_nan=False)
    end, at = lab_forecast._moment(found | {"steps": shown}, 1)
    assert end["modules"] is found["modules"] and at == "at the end, step 40"


def test_a_replay_goes_from_the_first_moment_to_the_last_and_ends() -> None:
    found = {"steps": [{"step": 5 * i, "spectra": {}} for i in range(70)]}
    shown, timer, _ = lab_forecast._begin(found, 69)
    assert shown == 0 and timer.active
    moments = [0]
    while (more := lab_forecast._advance(found, moments[-1]))[0] in range(70):
        moments.append(more[0])
    assert moments[:2] == [0, 3] and moments[-1] == 69 and len(moments) < 35
    assert not more[1].active and more[2]["interactive"]
    assert not lab_forecast._begin({"steps": found["steps"][:1]}, 0)[1].active, "one moment is no replay"


def test_modules_are_offered_in_the_order_of_their_layers(tmp_path: Path) -> None:
    """The reader begins with the last layer's down_proj, which by name alone would be that of layer 9."""
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 2, 9, 10, 11)]
    save_updates([Update(name, np.ones((4, 2)), np.ones((2, 6))) for name in reversed(names)], tmp_path / "update")
    assert list(matrix_ranks(tmp_path / "update")) == names
