"""What the tabs Spectrum and Compare say of constructed runs: numbers against the updates themselves."""

import csv
import io
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from lora_playground.analysis.truncation import Truncation
from lora_playground.analysis.update import Update
from lora_playground.models import catalogue
from lora_playground.plots import MEASURES, run_colour
from lora_playground.runs import RunStore
from lora_playground.ui import compare
from lora_playground.ui import spectrum_views as views
from lora_playground.ui.shell import Shown
from lora_playground.ui.spectrum_cache import SpectrumCache
from tests.spectrum_runs import STEPS, finished_run, training_run, updates

SHAPES = [(f"model.layers.{i}.self_attn.{k}_proj", 20, 16) for i in range(3) for k in "qv"]
MODULE = SHAPES[3][0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def runs(home):
    small = finished_run(home, "small", updates(SHAPES, 2, 0.1, seed=1, shared=2), {"name": "lora", "rank": 2})
    large = finished_run(
        home, "large", updates(SHAPES, 8, 0.1, seed=2, shared=2), {"name": "lora", "rank": 8}, score=0.97, drop=0.3
    )
    noise = np.random.default_rng(0)
    dense = [Update(name, dense=noise.standard_normal((m, n)).astype(np.float32)) for name, m, n in SHAPES]
    full = finished_run(home, "=full", dense, {"name": "full"}, score=0.5)
    return [small, large, full]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("base")
    rng = np.random.default_rng(5)
    weights = {f"{name}.weight": rng.standard_normal((m, n)).astype(np.float32) for name, m, n in SHAPES}
    save_file(weights, str(folder / "model.safetensors"))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder, weights


@pytest.fixture
def found(runs, base, monkeypatch):
    monkeypatch.setattr("lora_playground.ui.spectrum_cache.folder_of", lambda source: base[0])
    cache = SpectrumCache()
    return cache, views.subjects(cache, [Shown(run, run_colour(i), i) for i, run in enumerate(runs)])


def valid(view) -> None:
    figure, _ = view
    go.Figure(data=figure["data"], layout=figure["layout"])
    assert len(json.dumps(figure, separators=(",", ":"), allow_nan=False)) <= 30_000


def test_a_run_without_a_spectrum_says_why(tmp_path):
    run, cache = training_run(tmp_path, SHAPES), SpectrumCache()
    subjects = views.subjects(cache, [Shown(run, run_colour(0), 0)])

    def said() -> list[str]:
        shown = (
            views.map_view(cache, subjects[0], MODULE, "effective_rank", None),
            views.scree_view(cache, subjects, MODULE, True, None),
        )
        return [figure["layout"]["annotations"][0]["text"] + words for figure, words in shown]

    with run.locked():
        assert said() == ["The first spectrum comes soon after training begins."] * 2
    run.fail("nan", "The loss is not a number any more.")
    assert said() == ["It ended before its first spectrum was taken."] * 2


def test_newest_spectra_are_those_of_the_saved_update(found):
    _, (small, large, _) = found
    for subject, rank in ((small, 2), (large, 8)):
        assert subject.frames.exact and subject.frames.steps == [0, 10, 20, 30, STEPS]
        expected = np.exp(-0.1 * np.arange(rank)) * (1 + SHAPES.index((MODULE, 20, 16)) % 5)
        np.testing.assert_allclose(subject.frames.values[-1][MODULE], expected, rtol=1e-6)
    assert small.frames.at(25) == 2 and small.frames.at(None) == 4 and small.frames.at(0) == 0


@pytest.mark.parametrize("measure", list(MEASURES))
def test_map_shows_every_measure_and_replays(found, measure, base):
    cache, (small, *_) = found
    view = views.map_view(cache, small, MODULE, measure, None)
    valid(view)
    shown = view[0]["data"][0]
    row, column = 1, [name.split(".")[-1] for name, _, _ in SHAPES[:2]].index("v_proj")
    truth = np.exp(-0.1 * np.arange(2)) * 4
    norm = np.linalg.norm(truth)
    p = truth / truth.sum()
    expected = {
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
        "stable_rank": (norm / truth[0]) ** 2,
        "frobenius": norm,
        "sigma_1": truth[0],
        "relative": norm / np.linalg.norm(base[1][f"{MODULE}.weight"]),
    }[measure]
    assert shown["z"][row][column] == pytest.approx(expected, rel=1e-3)
    half = views.map_view(cache, small, MODULE, measure, 20)[0]["data"][0]
    assert half["zmax"] == shown["zmax"], "a replay keeps its colours"
    if measure in ("frobenius", "sigma_1", "relative"):
        assert half["z"][row][column] == pytest.approx(expected / 2, rel=2e-3)


def test_scree_overlays_all_runs_in_their_colours(found):
    cache, subjects = found
    view = views.scree_view(cache, subjects[:2], MODULE, True, None)
    valid(view)
    assert [trace["line"]["color"] for trace in view[0]["data"]] == [run_colour(0), run_colour(1)]
    plain, more = view[1].split(views.MORE)
    assert "small: allowed 2 directions; 2 do 90% of the work" in plain and "allowed 8 directions" in plain
    assert "effective rank" in more and "effective rank" not in plain
    early = views.scree_view(cache, subjects[:1], MODULE, True, 10)
    assert early[0]["data"][0]["y"][0] == pytest.approx(1.0, rel=1e-3), "a quarter of the way, a quarter of σ"


def test_a_dense_update_of_noise_stays_under_the_edge(found):
    cache, (*_, full) = found
    view = views.scree_view(cache, [full], MODULE, False, None)
    valid(view)
    assert "0 of its 16 directions stand above" in view[1] or "1 of its 16" in view[1]
    assert any(note["text"] == "edge of noise" for note in view[0]["layout"]["annotations"])


def test_the_edge_stands_beside_a_low_rank_run_too_and_in_the_dense_runs_colour(found):
    cache, (small, _, full) = found
    figure, words = views.scree_view(cache, [small, full], MODULE, True, None)
    valid((figure, words))
    notes = [note for note in figure["layout"]["annotations"] if note["text"] == "edge of noise"]
    assert [note["font"]["color"] for note in notes] == [full.colour]
    assert words.count("edge of noise") == 1 and "How low-rank is it?" in words
    early = views.scree_view(cache, [small, full], MODULE, True, 10)
    assert "edge of noise" not in early[1], "only the saved update has its whole spectrum"


def test_two_adapters_with_shared_directions(found):
    cache, subjects = found
    square, overlap = views.pair_views(cache, subjects[:2], MODULE, "right", False)
    valid(square)
    valid(overlap)
    z = np.array(square[0]["data"][0]["z"])
    assert z.shape == (2, 8) and z[1, 1:].min() > 0.999, "the small one lies in the large one"
    assert "share 100%" in square[1]
    one, _ = views.pair_views(cache, subjects[:1], MODULE, "right", False)
    assert "Tick two runs" in one[1]
    dense, _ = views.pair_views(cache, [subjects[0], subjects[2]], MODULE, "left", True)
    assert "no factors" in dense[1]


def test_update_beside_its_base(found):
    cache, (small, *_) = found
    shown = views.base_views(cache, small, MODULE, 5, 0.5, "left")
    assert len(shown) == 3
    for view in shown:
        valid(view)
        assert view[1]
    assert len(shown[2][0]["data"][0]["x"]) == 5
    assert all(view[1] == "" for view in views.base_views(cache, None, MODULE, 5, 0.5, "left"))


def test_without_its_base_the_rest_is_shown(found, monkeypatch):
    _, (small, *_) = found
    monkeypatch.setattr("lora_playground.ui.spectrum_cache.folder_of", lambda source: None)
    cache = SpectrumCache()
    shown = views.base_views(cache, small, MODULE, 5, 0.5, "left")
    assert "not on this disk" in shown[0][1]
    assert "not on this disk" in views.map_view(cache, small, MODULE, "relative", None)[1]
    valid(views.map_view(cache, small, MODULE, "effective_rank", None))


def test_a_cut_says_what_it_keeps(found):
    _, (small, large, _) = found
    figure, words = views.cut_view(large, Truncation("top", k=3))
    assert (figure["layout"]["shapes"][0]["x0"], figure["layout"]["shapes"][0]["x1"]) == (0, 3)
    energy = np.exp(-0.2 * np.arange(8))
    assert f"{100 * energy[:3].sum() / energy.sum():.0f}% of the update's energy" in words
    assert "base's" in views.cut_view(large, Truncation("top", k=0))[1]
    assert "untouched" in views.cut_view(small, Truncation())[1]


def test_numbers_go_out_as_csv_and_json(found):
    _, subjects = found
    rows = views.numbers(subjects)
    assert len(rows) == 3 * len(SHAPES)
    again = json.loads(views.as_json(rows))
    assert again[0]["singular_values"] == pytest.approx(rows[0]["singular_values"])
    table = list(csv.DictReader(io.StringIO(views.as_csv(rows))))
    assert float(table[0]["sigma_1"]) == pytest.approx(rows[0]["sigma_1"])
    assert table[-1]["label"] == "'=full", "a title that a spreadsheet would run is quoted"
    assert views.as_csv([]) == "\r\n"


def test_pictures_go_out_as_one_page(found):
    cache, subjects = found
    page = views.as_html([views.scree_view(cache, subjects, MODULE, True, None)], "Spectra <of> runs")
    assert "Spectra &lt;of&gt; runs" in page and page.count("Plotly.newPlot") >= 1
    assert not re.search(r"<script[^>]*\ssrc=", page), "the page must open with no network"


def test_a_run_that_is_gone_is_left_out(home, found):
    cache, _ = found
    gone = finished_run(home, "gone", updates(SHAPES, 1, 0.1), {"name": "lora", "rank": 1})
    RunStore(home).delete(gone.id)
    assert views.subjects(cache, [Shown(gone, "#000", 0)]) == []


# -------------------------------------------------------------------------------------------------------- compare


def test_table_sorts_and_says_what_is_known(runs):
    lines = [compare.read_line(run, run_colour(i) if i < 2 else "") for i, run in enumerate(runs)]
    assert [line.label for line in compare.sort(lines, "score", True)] == ["large", "small", "=full"]
    assert [line.label for line in compare.sort(lines, "rank", False)] == ["small", "large", "=full"], "unknown last"
    html = compare.table(compare.sort(lines, "score", True), "score", True)
    assert 'aria-sort="descending"' in html and "97%" in html and "400 MB" in html
    assert html.count('aria-checked="true"') == 2
    assert "Nothing to compare" in compare.table([], "score", True)


def test_differences_name_options_and_both_values(runs):
    lines = [compare.read_line(run, run_colour(i)) for i, run in enumerate(runs[:2])]
    html = compare.differences(lines)
    assert "Rank r" in html and ">2<" in html and ">8<" in html and "Steps" not in html and "variant." not in html
    assert "Tick two runs" in compare.differences(lines[:1])


def test_runs_of_unlike_budgets_or_data_are_remarked_upon(runs):
    lines = [compare.read_line(run, run_colour(i)) for i, run in enumerate(runs[:2])]
    assert compare.remark(lines) == ""
    lines[0].steps, lines[1].steps = 12, 60
    assert "small: 12 steps" in compare.remark(lines) and "large: 60 steps" in compare.remark(lines)
    lines[1].config["data"]["dataset"] = "json"
    assert "differ in their datasets" in compare.remark(lines) and compare.remark(lines[:1]) == ""


def test_points_need_both_numbers(runs):
    lines = [compare.read_line(run, "#000") for run in runs]
    assert len(compare.points(lines, "kept", "gain")) == 3
    lines[0].kept = None
    assert len(compare.points(lines, "kept", "gain")) == 2


def test_the_embedded_model_has_modules_to_look_at():
    assert len(catalogue.module_shapes(catalogue.EMBEDDED)) >= 7
