"""Every method's card beside the form, and options that cannot work: each refused in one line, and nothing started."""

import json
import re

from lora_playground.variants import VARIANTS
from tests.e2e.steps import choose, open_advanced, open_fold, until


def choose_method(page, name: str) -> None:
    """Picks the family, then the variant in it."""
    variant = VARIANTS[name]
    choose(page, "lp-family", variant.family)
    chip = page.locator("#lp-variant label").filter(has_text=re.compile(rf"^\s*{re.escape(variant.label)}\s*$"))
    chip.wait_for()
    chip.click()
    sentence = variant.card.sentence
    until(page, lambda: sentence in page.locator("#lp-card").inner_text(), f"the card of {name}", 60)


def test_cards_have_their_equation_formula_number_and_picture(page, server):
    # One of every family; the pictures and formulas of all variants are tests of tests/ui and tests/variants.
    for name, variant in {variant.family: (name, variant) for name, variant in VARIANTS.items()}.values():
        choose_method(page, name)
        card, equation, picture = (page.locator(f"#lp-{part}") for part in ("card", "equation", "picture"))
        until(page, lambda e=equation: e.locator(".katex-display").count() == 1, "the equation")
        assert "Trained in an" in equation.inner_text() and equation.locator(".katex").count() >= 3, name
        assert equation.locator(".katex-error").count() == 0, name
        assert card.locator("a").get_attribute("href") == variant.card.url
        parts = variant.parts((704, 256), variant.config())
        drawn = picture.locator(".lp-matrices text.name")
        until(page, lambda d=drawn, p=parts: d.all_text_contents() == [part.name for part in p], f"the parts of {name}")
        assert re.search(r"[\d,]+ in a module of \d+ × \d+, [\d,]+ in all 49 modules", picture.inner_text()), name
        assert picture.locator("svg").bounding_box()["width"] <= page.locator("#lp-picture").bounding_box()["width"]


def refused(page, *words: str) -> None:
    """Presses Train, and is told why not, in one line."""
    page.locator("#lp-train").click()
    problem = page.locator("#lp-problem")
    until(page, lambda: all(word in problem.inner_text() for word in words), f"the refusal with {words}", 60)
    assert "\n" not in problem.inner_text().strip() and len(problem.inner_text()) < 400


def fill(page, field: str, value: str) -> None:
    box = page.locator(f"#{field} input, #{field} textarea").first
    box.fill(value)
    box.press("Tab")


def option_field(page, label: str) -> str:
    """The id of the visible option of that label."""
    for place in page.locator('[id^="lp-variant-"]').all():
        if place.is_visible() and place.locator("label, span").first.inner_text().strip().startswith(label):
            return place.get_attribute("id")
    raise AssertionError(f"no option {label}")


def test_options_that_cannot_work_are_refused_in_one_line(page, server, tmp_path):
    before = server.runs()
    choose_method(page, "lora")
    open_advanced(page)
    for rank in ("0", "-4", "8.5", "400", "many"):
        fill(page, "lp-rank-exact", rank)
        refused(page, "Rank:", rank)
    forecast, picture = page.locator("#lp-forecast"), page.locator("#lp-picture")
    fill(page, "lp-rank-exact", "999")
    until(page, lambda: "Rank: 999 is not possible" in forecast.inner_text(), "why, in the forecast's place")
    until(page, lambda: "under Budget" in picture.inner_text() and "999" not in picture.inner_text(), "and once only")
    fill(page, "lp-rank-exact", "")
    until(page, lambda: "Rank:" not in page.locator("#lp-steps").inner_text(), "the refusal to go with what was wrong")
    until(page, lambda: "Rank r = 8" in picture.inner_text() and "epochs" in forecast.inner_text(), "both as before")
    targets, alpha = option_field(page, "Target modules"), option_field(page, "Alpha")
    fill(page, targets, "q_porj")
    refused(page, "q_porj", "k_proj", "did you mean q_proj?")
    fill(page, targets, "all-linear")
    fill(page, alpha, "0")
    refused(page, "Alpha: 0", "more than 0")
    choose_method(page, "hra")
    fill(page, "lp-rank-exact", "3")
    refused(page, "Rank: 3", "HRA needs an even rank")
    fill(page, "lp-rank-exact", "")
    choose(page, "lp-model-quantisation", "4bit")
    refused(page, "Quantisation:", "HRA needs a base stored in 16 bit")
    choose(page, "lp-model-quantisation", "none")
    choose_method(page, "lora")  # the list of families opens upwards here: the header must not cover its first entry
    open_fold(page, "lp-options-fold")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"variant": {"name": "lora", "rnak": 4}}))
    page.locator("#lp-options-file input[type=file]").set_input_files(str(path))
    said = page.locator("#lp-options-said")
    until(page, lambda: "rnak" in said.inner_text() and "no such option" in said.inner_text(), "what is wrong with it")
    refused(page, "Rnak:", "no such option", "known here are")
    assert server.runs() == before, "nothing was started"
