"""The tabs Spectrum and Compare in a browser, on runs that are there already."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from lora_playground.analysis.adapter_config import CONFIG
from lora_playground.analysis.adapter_file import TENSORS
from lora_playground.analysis.update import Update, load_updates
from lora_playground.analysis.weights import Weights
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.plots import run_colour
from lora_playground.runs import RunStore
from tests.e2e.conftest import guarded
from tests.e2e.steps import answers, ask_again, cells, open_fold, open_sections, open_tab, points, until, widest
from tests.spectrum_runs import STEPS, finished_run, updates


@pytest.fixture(scope="module")
def runs(server):
    """Two adapters of the embedded model that share two directions in every module."""
    shapes = module_shapes(EMBEDDED)
    small = updates(shapes, 2, 0.4, seed=1, shared=2)
    large = updates(shapes, 8, 0.4, seed=2, shared=2)
    return [
        finished_run(server.home, "small", small, {"name": "lora", "rank": 2}, score=0.6, drop=0.02).id,
        finished_run(server.home, "large <b>bold</b>", large, {"name": "lora", "rank": 8}, score=0.9, drop=0.3).id,
    ]


@pytest.fixture(scope="module")
def opened(browser, server, runs):
    """One page for all tests of this module that do not need a fresh one: loading it is most of their time."""
    with guarded(browser) as context:
        page = context.new_page()
        page.goto(f"{server.url}?tab=spectrum&runs={','.join(runs)}")
        page.locator('#lp-tabs [role="tab"]').first.wait_for()
        yield page


@pytest.fixture
def spectrum(opened):
    open_tab(opened, "Spectrum")
    until(opened, lambda: len(points(opened, "lp-spec-scree")) == 2, "the scree of two runs")
    until(opened, lambda: points(opened, "lp-spec-intruders"), "the last picture")
    open_sections(opened)
    if not opened.locator("#lp-spec-png").is_visible():
        open_fold(opened, "lp-spec-files-fold")
    return opened


def colours(page, plot: str) -> list[str]:
    return page.evaluate(
        "(plot) => document.querySelector(`#${plot} .js-plotly-plot`).data.map((trace) => trace.line.color)", plot
    )


def words(page, name: str) -> str:
    return page.locator(f"#lp-spec-{name}-words").inner_text()


def test_look_replay_and_choose_a_module(spectrum):
    page = spectrum
    rows = len({name.split(".")[2] for name, _, _ in module_shapes(EMBEDDED)})
    assert len(cells(page, "lp-spec-map")) == rows and len(cells(page, "lp-spec-map")[0]) == 7
    assert colours(page, "lp-spec-scree") == [run_colour(0), run_colour(1)], "a run has one colour everywhere"
    assert "allowed 2 directions" in words(page, "scree") and "allowed 8 directions" in words(page, "scree")
    assert "effective rank" not in words(page, "scree"), "the terms are behind more"
    page.locator("#lp-spec-scree-words summary").click()
    assert "effective rank" in words(page, "scree")
    assert len(cells(page, "lp-spec-directions")) == 32 and "One direction is one pattern" in words(page, "directions")
    assert page.locator(".lp-keys b").count() == 0, "a run's title is text"

    before = points(page, "lp-spec-scree")
    spot = page.locator("#lp-spec-map .nsewdrag").first
    box = spot.bounding_box()
    spot.click(position={"x": box["width"] * 0.5 / 7, "y": box["height"] * (1 - 0.5 / rows)})
    title = "document.querySelector('#lp-spec-scree .js-plotly-plot').layout.title.text"
    until(page, lambda: "layer 0" in page.evaluate(title), "the clicked module")
    assert points(page, "lp-spec-scree") != before

    end = points(page, "lp-spec-scree")[0]
    number = page.locator("#lp-spec-step input[type=number]")
    assert float(number.input_value()) == STEPS
    number.fill(str(STEPS // 2))
    number.press("Tab")
    half = until(page, lambda: (p := points(page, "lp-spec-scree")) and p[0] < 0.7 * end and p, "half of the training")
    assert half[0] == pytest.approx(end / 2, rel=1e-2)
    page.locator("#lp-spec-play").click()
    until(page, lambda: points(page, "lp-spec-scree")[0] == pytest.approx(end, rel=1e-2), "the replay's end")
    until(page, lambda: page.locator("#lp-spec-play").is_enabled(), "another replay")


def test_two_adapters_and_the_base(spectrum):
    page = spectrum
    phi = np.array(until(page, lambda: cells(page, "lp-spec-square"), "the square"))
    assert phi.shape == (2, 8) and phi[1, 1:].min() > 0.99, "the small adapter lies within the large one"
    assert "share 100%" in words(page, "square") and "by chance" in words(page, "square")
    assert len(points(page, "lp-spec-intruders")) == 10
    assert "random" in words(page, "amplified") and "chance" in words(page, "aligned")
    page.locator("#lp-spec-epsilon input[type=number]").fill("1")
    page.locator("#lp-spec-epsilon input[type=number]").press("Tab")
    until(page, lambda: words(page, "intruders").startswith(("10 of", "9 of", "8 of")), "a stricter threshold")


def test_cut_save_and_ask(spectrum, server):
    page = spectrum
    page.locator("#lp-spec-mode label").filter(has_text="strongest k").click()
    until(page, lambda: "the strongest direction of every module" in words(page, "energy"), "one direction kept")
    known = set(server.runs())
    page.locator("#lp-spec-save").click()
    until(page, lambda: "Saved as the run" in page.locator("#lp-spec-said").inner_text(), "the cut adapter")
    (made,) = set(server.runs()) - known
    saved = json.loads((server.home / "runs" / made / "adapter" / "adapter_config.json").read_text())
    assert saved["r"] == 1 and saved["peft_type"] == "LORA"
    until(page, lambda: page.locator(".lp-keys .lp-key").count() == 3, "the new run ticked")
    page.locator("#lp-spec-ask").click()
    page.locator("#lp-input textarea").wait_for()
    until(page, lambda: page.locator(".lp-pane").count() == 4, "the base and three runs")
    keeps = page.locator('.lp-pane input[type="number"]').first
    until(page, lambda: keeps.input_value() == "1", "the cut chosen in Spectrum")
    page.locator(f'#lp-runs .lp-tick[data-id="{made}"]').click()
    until(page, lambda: page.locator(".lp-pane").count() == 3, "the run unticked")
    RunStore(server.home).delete(made)


def test_numbers_come_as_files(spectrum):
    page = spectrum
    for button, read in (
        ("lp-spec-csv", lambda p: list(csv.DictReader(Path(p).read_text().splitlines()))),
        ("lp-spec-json", None),
    ):
        with page.expect_download() as waiting:
            page.locator(f"#{button}").click()
        path = waiting.value.path()
        rows = read(path) if read else json.loads(Path(path).read_text())
        assert len(rows) == 2 * len(module_shapes(EMBEDDED))
        assert float(rows[0]["sigma_1"]) > 0


def test_pictures_come_as_files(spectrum, browser):
    page = spectrum
    for button, start in (("lp-spec-png", b"\x89PNG"), ("lp-spec-svg", b"<svg")):
        with page.expect_download() as waiting:
            page.locator(f"#{button}").click()
        content = Path(waiting.value.path()).read_bytes()
        assert waiting.value.suggested_filename.startswith("lora-playground-scree") and content.startswith(start)
        if start == b"<svg":
            assert b"strongest first" in content and b"singular value" in content
        else:
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.size == (3300, 1860)
                assert picture.convert("RGBA").getpixel((3, 3)) == (255, 255, 255, 255), "readable on any slide"
    with page.expect_download() as waiting:
        page.locator("#lp-spec-html").click()
    alone = browser.new_page()
    asked: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    path = Path(waiting.value.path()).with_suffix(".html")
    path.write_bytes(Path(waiting.value.path()).read_bytes())
    alone.goto(path.as_uri())
    until(alone, lambda: alone.locator(".js-plotly-plot .main-svg").count() >= 7, "the pictures in a page of their own")
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), "it needs no network"
    assert all(alone.locator("figcaption").all_inner_texts()), "each with its sentence"
    alone.close()


def test_every_picture_has_its_sentence(spectrum):
    page = spectrum
    for name in ("map", "scree", "square", "overlap", "amplified", "aligned", "intruders", "energy", "curve"):
        assert len(words(page, name)) > 20, name


def test_a_cut_in_chat_is_the_base_at_0_and_the_whole_adapter_at_r(blank, server, runs):
    page = blank
    page.goto(f"{server.url}?tab=chat&runs={runs[1]}")
    until(page, lambda: page.locator(".lp-pane").count() == 2, "the base and the run")
    page.locator("#lp-input textarea").fill("Tell me a story about a fox and a boat.")
    page.locator("#lp-send").click()
    until(page, lambda: all(answers(page)) and len(answers(page)) == 2, "both answers")
    until(page, lambda: page.locator("#lp-send").is_visible(), "their end")
    base, whole = answers(page)
    assert base != whole
    for k, expected in (("8", whole), ("0", base)):
        keeps = page.locator('.lp-pane input[type="number"]').first
        keeps.fill(k)
        keeps.press("Tab")
        ask_again(page)
        assert answers(page) == [base, expected], f"k = {k}"
    # The slider in Spectrum is the same cut, and the same question is put again.
    open_tab(page, "Spectrum")
    open_sections(page)
    page.locator("#lp-spec-mode label").filter(has_text="strongest k").click()
    until(page, lambda: "the strongest direction of every module" in words(page, "energy"), "one direction kept")
    number = page.locator("#lp-spec-k input[type=number]")
    number.fill("8")
    number.press("Tab")
    until(page, lambda: "100% of the update's energy" in words(page, "energy"), "all eight kept")
    page.locator("#lp-spec-ask").click()
    until(
        page, lambda: page.locator("#lp-send").is_visible() and answers(page) == [base, whole], "the adapter's answer"
    )
    assert page.locator(".lp-pane .q").first.inner_text() == "Tell me a story about a fox and a boat."


def test_an_adapter_is_imported_and_a_pickle_refused(spectrum, server, runs, tmp_path):
    page = spectrum
    bad = tmp_path / "adapter_model.bin"
    bad.write_bytes(b"\x80\x02}q\x00.")
    page.locator("#lp-spec-upload input[type=file]").set_input_files(str(bad))
    page.locator("#lp-spec-upload").get_by_text("adapter_model").first.wait_for()
    known = set(server.runs())
    page.locator("#lp-spec-import").click()
    until(page, lambda: "pickle" in page.locator("#lp-spec-brought").inner_text(), "the refusal")
    assert set(server.runs()) == known
    source = RunStore(server.home).get(runs[0]).adapter
    good = tmp_path / "mine.zip"
    with zipfile.ZipFile(good, "w") as made:
        for path in source.iterdir():
            made.write(path, path.name)
    page.locator("#lp-spec-upload input[type=file]").set_input_files(str(good))
    page.locator("#lp-spec-upload").get_by_text("mine").first.wait_for()
    page.locator("#lp-spec-import").click()
    until(page, lambda: "the run “mine”" in page.locator("#lp-spec-brought").inner_text(), "the import")
    (new,) = set(server.runs()) - known
    assert RunStore(server.home).get(new).result()["imported"]["base"] == "embedded"
    until(page, lambda: page.locator(".lp-keys .lp-key").count() == 3, "the import ticked")
    page.locator(f'#lp-runs .lp-tick[data-id="{new}"]').click()
    until(page, lambda: page.locator(".lp-keys .lp-key").count() == 2, "the import unticked")
    RunStore(server.home).delete(new)


def test_an_adapter_that_rescales_w_is_taken_with_its_base(spectrum, server, tmp_path):
    """IA³'s update is W with its rows rescaled, minus W: its file alone does not tell it."""
    page, rng = spectrum, np.random.default_rng(0)
    shapes = [(name, out) for name, out, _ in module_shapes(EMBEDDED) if name.endswith("v_proj")]
    scales = {name: (1 + 0.2 * rng.standard_normal((out, 1))).astype(np.float32) for name, out in shapes}
    path, known = tmp_path / "rescaled.zip", set(server.runs())
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(CONFIG, json.dumps({"peft_type": "IA3", "base_model_name_or_path": "embedded"}))
        made.writestr(TENSORS, save({f"base_model.model.{name}.ia3_l": scale for name, scale in scales.items()}))
    page.locator("#lp-spec-upload input[type=file]").set_input_files(str(path))
    page.locator("#lp-spec-upload").get_by_text("rescaled").first.wait_for()
    page.locator("#lp-spec-import").click()
    until(page, lambda: "the run “rescaled”" in page.locator("#lp-spec-brought").inner_text(), "the import")
    (new,) = set(server.runs()) - known
    run = RunStore(server.home).get(new)
    assert run.result()["imported"]["extracted"] and run.config().variant.name == "ia3"
    weights = Weights(EMBEDDED)
    for update in load_updates(run.update_path):
        W = weights.weight(update.name, update.shape)
        np.testing.assert_allclose(update.matrix(), (scales[update.name] - 1) * W, atol=1e-5)
    until(page, lambda: page.locator(".lp-keys .lp-key").count() == 3, "the import ticked")
    page.locator(f'#lp-runs .lp-tick[data-id="{new}"]').click()
    until(page, lambda: page.locator(".lp-keys .lp-key").count() == 2, "the import unticked")
    RunStore(server.home).delete(new)


BAD = {
    "points outside": lambda good: {**good, "../evil.txt": b"x"},
    "a pickle": lambda good: {CONFIG: good[CONFIG], "adapter_model.bin": b"\x80\x02}q\x00."},
    "NaN or Inf": lambda good: {**good, TENSORS: changed(good, lambda a: a.fill(np.nan))},
    "invalid shape, data type, or offset": lambda good: {**good, TENSORS: lying(good[TENSORS])},
    "not the other factor": lambda good: {**good, TENSORS: changed(good, drop="lora_B")},
    "does not belong": lambda good: {**good, TENSORS: changed(good, more={f"{STEM}.vera_lambda_b": np.zeros(3)})},
}
STEM = "base_model.model.model.layers.0.self_attn.q_proj"


def changed(good: dict[str, bytes], fill=None, drop: str = "", more: dict | None = None) -> bytes:
    """The adapter's tensors with the first one filled, one left out, or others added."""
    tensors = {key: np.array(value) for key, value in load(good[TENSORS]).items()}
    first = next(key for key in tensors if drop in key)
    if fill:
        fill(tensors[first])
    if drop:
        del tensors[first]
    return save({**tensors, **{key: np.asarray(a, np.float32) for key, a in (more or {}).items()}})


def lying(content: bytes) -> bytes:
    """A header that claims more rows than there are bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    next(entry for key, entry in header.items() if key != "__metadata__")["shape"][0] *= 1000
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def test_bad_adapters_are_refused_in_words_and_the_server_stays_up(spectrum, server, runs, tmp_path):
    page = spectrum
    source = RunStore(server.home).get(runs[0]).adapter
    good = {name: (source / name).read_bytes() for name in (CONFIG, TENSORS)}
    known, outside = set(server.runs()), set(server.home.parent.iterdir())
    for number, (said, make) in enumerate(BAD.items()):
        bad = tmp_path / f"bad{number}.zip"
        with zipfile.ZipFile(bad, "w") as made:
            for name, content in make(good).items():
                made.writestr(name, content)
        page.locator("#lp-spec-upload input[type=file]").set_input_files(str(bad))
        page.locator("#lp-spec-upload").get_by_text(f"bad{number}").first.wait_for()
        page.locator("#lp-spec-import").click()
        until(page, lambda said=said: said in page.locator("#lp-spec-brought").inner_text(), f"the refusal: {said}")
    assert set(server.runs()) == known and set(server.home.parent.iterdir()) == outside
    assert server.process.poll() is None
    page.locator("#lp-spec-log label").filter(has_text="linear").click()
    kind = "document.querySelector('#lp-spec-scree .js-plotly-plot').layout.yaxis.type"
    until(page, lambda: page.evaluate(kind) == "linear", "a linear axis")
    page.locator("#lp-spec-log label").filter(has_text="log").click()
    until(page, lambda: page.evaluate(kind) == "log", "a logarithmic axis")


def test_loss_and_score_over_k_are_measured(spectrum, server, runs):
    page = spectrum
    page.locator("#lp-spec-mode label").filter(has_text="all").click()
    page.locator("#lp-spec-measure-cut").click()
    until(page, lambda: "done" in words(page, "curve"), "the first points")
    until(page, lambda: len(points(page, "lp-spec-curve")) == 3, "k = 0, 1 and 2")
    until(page, lambda: "done" not in words(page, "curve"), "its end")
    curve = json.loads((server.home / "runs" / runs[0] / "cut.json").read_text())
    assert curve["done"] and curve["k"] == [0, 1, 2] and curve["metric"] == "pirate"
    np.testing.assert_allclose(points(page, "lp-spec-curve"), curve["loss"], rtol=1e-3)
    for mode, sentence in (("weakest k", "weakest"), ("a range", "directions 1 to 2"), ("one", "direction 1")):
        page.locator("#lp-spec-mode label").filter(has_text=mode).click()
        until(page, lambda sentence=sentence: sentence in words(page, "energy"), mode)
    page.locator("#lp-spec-mode label").filter(has_text="all").click()
    until(page, lambda: "untouched adapter" in words(page, "energy"), "all directions")


def test_compare_sorts_and_ticks(spectrum, runs, server):
    page = spectrum
    open_tab(page, "Compare")
    table, by_rank = page.locator("#lp-compare-table tbody tr"), page.locator('#lp-compare-table [data-id="rank"]')

    def order() -> list[str]:
        names = [row.split("\t")[0].strip() for row in table.all_inner_texts()]
        return [name for name in names if name in ("small", "large <b>bold</b>")]

    until(page, lambda: len(order()) == 2 and points(page, "lp-compare-loss", 1), "the table and the losses")
    assert order() == ["large <b>bold</b>", "small"], "the best score comes first"
    assert "90%" in table.filter(has_text="large").first.inner_text()
    by_rank.click()
    until(page, lambda: "▾" in by_rank.inner_text(), "falling ranks")
    by_rank.click()
    until(page, lambda: "▴" in by_rank.inner_text() and order()[0] == "small", "rising ranks")
    assert "Rank r" in page.locator("#lp-compare-options").inner_text()
    assert " to " in table.filter(has_text="large").first.inner_text(), "a score has its interval"
    low, high = page.evaluate("document.querySelector('#lp-compare-cost .js-plotly-plot').layout.yaxis.range")
    assert low == 0 and high > 1, "shares from 0 to 100%"
    assert "large" in page.locator("#lp-compare-gain-words").inner_text()
    points_in = "document.querySelector('#lp-compare-gain .js-plotly-plot').data.map((trace) => trace.marker?.color)"
    assert set(page.evaluate(points_in)) >= {run_colour(0), run_colour(1)}, "a run has one colour everywhere"
    two = page.locator("#lp-compare-two")
    until(page, lambda: "cosine of" in two.inner_text(), "two runs in words")
    first, second = ([one.matrix() for one in load_updates(server.home / "runs" / run / "update.safetensors")]
                     for run in runs)  # fmt: skip
    inner, *squares = (sum(float(np.vdot(a, b)) for a, b in zip(one, other))
                       for one, other in ((first, second), (first, first), (second, second)))  # fmt: skip
    assert f"cosine of {inner / np.sqrt(squares[0] * squares[1]):.2f} " in two.inner_text()
    assert "30 points more (95%: +" in two.inner_text() and "large <b>bold</b> is better" in two.inner_text()
    page.locator(f'#lp-compare-table [data-act="tick"][data-id="{runs[1]}"]').click()
    until(page, lambda: "Tick two runs" in page.locator("#lp-compare-options").inner_text(), "one run unticked")


def test_a_phone_scrolls_one_way_only(blank, server, runs):
    page = blank
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server.url}?tab=spectrum&runs={','.join(runs)}")
    until(page, lambda: points(page, "lp-spec-scree"), "the first pictures")
    heading = page.locator(".lp-section").filter(has_text="The update and its base")
    until(page, lambda: heading.get_attribute("aria-expanded") == "false", "later sections are folded")
    assert not page.locator("#lp-spec-intruders").is_visible()
    heading.click()
    until(page, lambda: page.locator("#lp-spec-intruders").is_visible(), "the section that was opened")
    until(page, lambda: points(page, "lp-spec-intruders"), "its pictures")
    assert widest(page) <= 390
    open_tab(page, "Compare")
    until(page, lambda: points(page, "lp-compare-loss"), "the losses")
    assert widest(page) <= 390


def test_dense_updates_show_the_edge_of_noise(blank, server):
    rng = np.random.default_rng(0)
    made = [
        Update(name, dense=(0.01 * rng.standard_normal((m, n))).astype(np.float32))
        for name, m, n in module_shapes(EMBEDDED)[:7]
    ]
    run = finished_run(server.home, "full", made, {"name": "full"})
    page = blank
    page.goto(f"{server.url}?tab=spectrum&runs={run.id}")
    until(page, lambda: "edge of noise" in words(page, "scree"), "the edge")
    RunStore(server.home).delete(run.id)
