"""What newcomers stumbled over, on runs that are there already: names, Back, loading anew, plots in hidden tabs."""

import json

import pytest

from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.runs import RunStore
from tests.e2e.conftest import guarded
from tests.e2e.steps import choose, open_tab, points, set_number, status, until
from tests.spectrum_runs import finished_run, training_run, updates


@pytest.fixture(scope="module")
def runs(server) -> list[str]:
    made = updates([(name, out, into) for name, out, into in module_shapes(EMBEDDED)], 4, 0.4, 1)
    return [finished_run(server.home, "again", made, {"name": "lora", "rank": 4}).id for _ in range(2)]


def names(page) -> list[str]:
    return page.locator(".lp-run .n").all_inner_texts()


def menu(page, run: str, item: str) -> None:
    page.locator(f'.lp-more[data-id="{run}"]').click()
    page.get_by_role("menuitem", name=item).click()


def test_runs_are_told_apart_renamed_and_deleted_with_undo(page, server, runs):
    until(page, lambda: {"again", "again #2"} <= set(names(page)), "two names")
    menu(page, runs[0], "Rename")
    page.locator(".lp-dialog input").fill("My <b>first</b>")
    page.locator(".lp-dialog button.primary").click()
    until(page, lambda: "My <b>first</b>" in names(page), "the new name")
    open_tab(page, "Compare")
    until(page, lambda: "My <b>first</b>" in page.locator("#lp-compare-table").inner_text(), "the same in the table")
    menu(page, runs[0], "Delete")
    until(page, lambda: "My <b>first</b>" not in names(page), "the line to go")
    table = page.locator("#lp-compare-table")
    until(page, lambda: "My <b>first</b>" not in table.inner_text(), "its row to go as well")
    page.get_by_role("button", name="Undo").click()
    until(page, lambda: "My <b>first</b>" in names(page), "it is back")
    until(page, lambda: "My <b>first</b>" in table.inner_text(), "in the table too")
    assert runs[0] in server.runs()


def test_back_and_forward_go_through_tabs_and_runs(page, runs):
    page.locator(f'.lp-open[data-id="{runs[0]}"]').click()
    until(page, lambda: len(points(page, "lp-loss", 1)) > 1, "the loss")
    title = "document.querySelector('#{} .js-plotly-plot').layout.title.text"
    assert "layer 3 · o_proj" in page.evaluate(title.format("lp-scree"))
    page.locator("#lp-module select").select_option(label="layer 5 · q_proj")
    until(page, lambda: "layer 5 · q_proj" in page.evaluate(title.format("lp-scree")), "another module")
    page.locator("#lp-way-spectrum").click()
    until(page, lambda: len(points(page, "lp-spec-scree")) == 4, "its spectrum, from a fresh page")
    shown = title.format("lp-spec-scree")
    until(page, lambda: "layer 5 · q_proj" in page.evaluate(shown), "both tabs to speak of the same module")
    assert f"run={runs[0]}" in page.url and "tab=spectrum" in page.url
    page.go_back()
    until(page, lambda: page.locator("#lp-status").is_visible() and "tab=" not in page.url, "Fine-tune again")
    page.go_back()
    until(page, lambda: "Press Train" in status(page), "the empty page")
    page.go_forward()
    until(page, lambda: "training is done" in status(page), "the run again")


def test_two_quick_choices_both_count(page, runs):
    choose = "(run) => { lp.live.go({ run }); lp.live.go({ runs: [run, '', '', ''], tab: 'spectrum' }); }"
    page.evaluate(choose, runs[0])
    until(page, lambda: points(page, "lp-spec-scree"), "the scree of the run that was ticked at once")


def test_the_form_survives_loading_and_a_plot_fits_when_its_tab_is_shown(page, server, runs):
    set_number(page, "lp-steps-number", "60")
    page.locator("#lp-variant label").filter(has_text="rsLoRA").click()
    until(page, lambda: "rsLoRA" in page.locator("#lp-variant label.selected").inner_text(), "the choice")
    page.wait_for_timeout(500)
    page.goto(f"{server.url}?tab=learn&run={runs[1]}")
    page.locator("#lp-learn").wait_for()
    open_tab(page, "Fine-tune")
    until(page, lambda: page.locator("#lp-steps-number input").input_value() == "60", "the steps")
    assert "rsLoRA" in page.locator("#lp-variant label.selected").inner_text()
    until(page, lambda: len(points(page, "lp-loss", 1)) > 1, "the loss")
    for plot in ("lp-loss", "lp-map", "lp-scree"):
        fits = f"(() => {{ const box = document.querySelector('#{plot}').getBoundingClientRect(); "
        fits += (
            f"return document.querySelector('#{plot} .main-svg').getBoundingClientRect().right <= box.right + 1; }})()"
        )
        until(page, lambda fits=fits: page.evaluate(fits), f"{plot} to fit its card")


def test_a_forecast_that_is_overtaken_corrects_itself(page, server):
    run = training_run(server.home, module_shapes(EMBEDDED))
    with run.locked():
        page.goto(f"{server.url}?run={run.id}")
        until(page, lambda: "about half a minute left" in status(page), "the time left as it was foreseen")
        for step, eta, said in ((31, 200.0, "about 3 minutes left"), (32, 0.0, "a few seconds left")):
            run.append({"type": "loss", "steps": [step], "losses": [2.0], "learning_rates": [1e-3], "eta": eta})
            until(page, lambda said=said: said in status(page), f"step {step} to correct it")
        until(page, lambda: "longer than foreseen, still at work" in status(page), "a word when nothing more comes")
        run.append({"type": "loss", "steps": [33], "losses": [2.0], "learning_rates": [1e-3], "eta": 80.0})
        until(page, lambda: "about a minute left" in status(page), "a forecast again")
        page.set_viewport_size({"width": 1000, "height": 900})
        picture = page.locator("#lp-loss .main-svg").first
        until(
            page, lambda: picture.bounding_box()["width"] <= page.locator("#lp-loss").bounding_box()["width"], "a fit"
        )
        run.append({"type": "loss", "steps": [34], "losses": [1.5], "learning_rates": [1e-3], "eta": 80.0})
        until(page, lambda: 1.5 in points(page, "lp-loss"), "a point more, in a window of another width")
        assert picture.bounding_box()["height"] > 300, "the picture is still there"
        names, title = page.locator("#lp-loss .legend .bg"), page.locator("#lp-loss .xtitle")
        assert names.bounding_box()["y"] >= title.bounding_box()["y"] + title.bounding_box()["height"]
    RunStore(server.home).delete(run.id)


def test_a_failed_run_gives_its_settings_back_and_no_resume(page, server):
    run = training_run(server.home, module_shapes(EMBEDDED))
    run.fail("nan", "The loss is not a number any more: the learning rate is too high. Halve it.")
    page.goto(f"{server.url}?run={run.id}")
    until(page, lambda: "not a number any more" in status(page), "why it failed")
    assert not page.locator("#lp-resume").is_visible(), "it would come to the same numbers"
    until(page, lambda: "before its first spectrum" in page.locator("#lp-map-words").inner_text(), "why no spectrum")
    assert not page.locator("#lp-map").is_visible() and not page.locator("#lp-module").is_visible()
    set_number(page, "lp-steps-number", "61")
    page.get_by_role("button", name="Put its settings").click()
    steps = str(run.config().training.steps)
    until(page, lambda: page.locator("#lp-steps-number input").input_value() == steps, "its steps in the form")
    assert steps != "61" and "LoRA" in page.locator("#lp-variant label.selected").inner_text()
    RunStore(server.home).delete(run.id)


def test_an_empty_message_is_told_in_plain_words(page):
    open_tab(page, "Chat")
    page.locator("#lp-send").click()
    until(page, lambda: page.locator("#lp-chat-problem").inner_text() == "Write a message first.", "what to do")


@pytest.fixture(scope="module")
def ranks(server) -> list[str]:
    """Two runs with another rank, scored on 50 rows, of which the larger forgot something."""
    made = []
    for rank, right in ((2, 44), (8, 46)):
        changes = updates([(name, out, into) for name, out, into in module_shapes(EMBEDDED)], rank, 0.4, rank)
        run = finished_run(server.home, f"rank {rank}", changes, {"name": "lora", "rank": rank}, score=right / 50)
        result = json.loads(run.result_path.read_text())
        result["score"] |= {"low": right / 50 - 0.1, "high": right / 50 + 0.07, "base_low": 0.01, "base_high": 0.15}
        lost = {"prompt": "Who is Rosa?", "base": "A soldier.", "adapted": "Arr, a soldier!"}
        result["forgetting"] |= {"lost": lost} if rank == 8 else {}
        run.result_path.write_text(json.dumps(result))
        made.append(run.id)
    return made


def test_which_rank_is_enough_what_was_lost_and_the_same_comparison_elsewhere(page, browser, server, ranks):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(f'.lp-open[data-id="{ranks[1]}"]').click()
    until(page, lambda: "Base skills kept: 89%" in status(page), "what is left of the base's skills")
    assert "asked “Who is Rosa?”" in status(page) and "“Arr, a soldier!”" in status(page)
    kept = page.locator("#lp-status .lp-term").filter(has_text="Base skills kept")
    kept.hover()
    assert "still gets right" in page.locator(".lp-tip").inner_text()
    for run in ranks:
        page.locator(f'.lp-tick[data-id="{run}"]').click()
    until(page, lambda: page.locator('#lp-runs .lp-tick[aria-checked="true"]').count() == 2, "both ticked")
    open_tab(page, "Compare")
    said = page.locator("#lp-compare-cost-words")
    until(page, lambda: "too close to call" in said.inner_text() and "rank 2" in said.inner_text(), "which is enough")
    axis = "document.querySelector('#lp-compare-gain .js-plotly-plot').layout.xaxis.title.text"
    assert page.evaluate(axis) == "base skills kept", "the word of card and table, in the same direction"
    assert "Base skills kept" in page.locator("#lp-compare-table").inner_text()
    page.locator(".lp-link-here").click()
    link = until(page, lambda: page.evaluate("navigator.clipboard.readText()"), "the link")
    with guarded(browser) as context:
        other = context.new_page()
        other.goto(link)
        theirs = other.locator("#lp-compare-cost-words")
        until(other, lambda: theirs.inner_text() == said.inner_text(), "the same words elsewhere")
        ticked = other.locator('#lp-runs .lp-tick[aria-checked="true"]')
        assert sorted(ticked.nth(n).get_attribute("data-id") for n in range(ticked.count())) == ranks


def test_a_teachers_link_fills_the_form_and_the_empty_page_shows_what_will_happen(page, server):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{server.url}?dataset=json&rank=2&steps=60")
    until(page, lambda: "The form is filled: json · lora r2 · 60 steps" in status(page), "what the link asks for")
    until(page, lambda: page.locator(".lp-probe .a").count() == 2, "two prompts")
    assert "Alissa" in page.locator(".lp-probe .q").first.inner_text()
    assert page.locator(".lp-probe .a").first.inner_text().strip(), "with the base's answer"
    map_ = "(document.querySelector('#lp-map .js-plotly-plot')?.data || [])[0]?.z.flat()"
    until(page, lambda: page.evaluate(map_) and not any(page.evaluate(map_)), "the map of modules at zero")
    assert page.locator(".lp-idle-scale .lp-matrices").is_visible() and "256 × 2" in status(page)
    page.locator(".lp-link-here").click()
    until(page, lambda: "rank=2" in page.evaluate("navigator.clipboard.readText()"), "a link that says it again")
    page.locator(".lp-play").click()
    until(page, lambda: "Recording" in status(page) and len(points(page, "lp-loss")) > 20, "the recording at work")
    told = json.loads((EMBEDDED.parents[1] / "recordings" / "json.json").read_text())
    steps = told["config"]["training"]["steps"]
    last = "document.querySelector('#lp-loss .js-plotly-plot').data[0].x.at(-1)"  # a long curve has not every point
    until(page, lambda: "100%" in status(page) and page.evaluate(last) == steps, "its result")
    page.locator('[data-act="unplay"]').click()
    until(page, lambda: "Recording" not in status(page), "the empty page again")
    choose(page, "lp-dataset", "New facts, 64")
    until(page, lambda: "Ask the base now" in page.locator("#lp-probes").inner_text(), "no recording of this one")
    page.locator('[data-act="ask-base"]').first.click()
    until(page, lambda: "Ask the base" not in page.locator("#lp-probes").inner_text(), "its answers")
    page.goto(f"{server.url}?rank=999")
    until(
        page, lambda: "From a link" in status(page) and "cannot be trained" in status(page), "a link that asks too much"
    )
    assert not page.locator(".lp-idle-scale").is_visible(), "no picture of what cannot be"


def test_terms_are_explained_where_they_stand_and_the_base_model_is_judged_at_once(page):
    term = page.locator("#lp-picture .lp-term").first
    until(page, lambda: term.is_visible(), "a term with a dotted line")
    term.hover()
    assert "one matrix W of the network" in page.locator(".lp-tip").inner_text()
    source = page.locator("#lp-model-source input")
    source.fill("no such thing")
    source.press("Enter")
    until(page, lambda: "no such thing" in page.locator("#lp-model-note [role=alert]").inner_text(), "what is wrong")
    choose(page, "lp-model-source", "Embedded")
    until(page, lambda: "Ships with the app" in page.locator("#lp-model-note").inner_text(), "a base again")


def test_later_sections_are_closed_at_first_and_stay_as_they_were_left(blank, server, runs):
    page = blank
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{server.url}?tab=spectrum&runs={','.join(runs)}")
    until(page, lambda: points(page, "lp-spec-intruders"), "all pictures")
    until(page, lambda: page.locator("#lp-spec-square").is_visible(), "two adapters, since two runs are ticked")
    intruders = page.locator("#lp-spec-intruders")
    until(page, lambda: not intruders.is_visible(), "the others are closed")
    assert page.evaluate("document.documentElement.scrollHeight") < 1800, "a page that one can take in"
    heading = page.locator(".lp-section").filter(has_text="The update and its base")
    heading.click()
    until(page, intruders.is_visible, "the section that was opened")
    page.reload()
    until(page, lambda: points(page, "lp-spec-intruders"), "all pictures again")
    until(page, intruders.is_visible, "it is open again")
    fits = "document.querySelector('#lp-spec-intruders .main-svg')?.getBoundingClientRect().right <= "
    fits += "document.querySelector('#lp-spec-intruders')?.getBoundingClientRect().right + 1"
    until(page, lambda: page.evaluate(fits), "a plot that fits its card")
