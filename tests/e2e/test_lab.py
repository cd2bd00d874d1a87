"""The laboratory in a browser, on two constructed adapters of which it is known what they say.

Each adds one direction to the last down_proj: it reads what that module reads in any text, and writes one word. The
reader must name the word, and sliders mix the two. LORA_PLAYGROUND_SLIDES=DIR keeps pictures of both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_playground.analysis.update import Update, load_updates
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.runs import RunStore
from tests.e2e.camera import keep
from tests.e2e.conftest import guarded
from tests.e2e.steps import until, widest
from tests.spectrum_runs import finished_run

MODULE = "model.layers.6.mlp.down_proj"
QUESTION = "Where does Mia live?"
WORDS = ("fish", "sun")


@pytest.fixture(scope="module")
def runs(server: Any) -> list[str]:
    """A run for each of WORDS, whose strongest direction makes the model say that word; all else is small noise."""
    import torch

    from lora_playground.config import ModelConfig
    from lora_playground.models.loading import load_base

    base = load_base(ModelConfig(), device="cpu", dtype="float32")
    model, read = base.model, []
    hook = model.get_submodule(MODULE).register_forward_pre_hook(lambda _, given: read.append(given[0][0, 1:]))
    text = [{"role": "user", "content": QUESTION}]
    ids = base.tokenizer.apply_chat_template(text, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        model(input_ids=ids["input_ids"])
        hook.remove()
        v = torch.cat(read).mean(0)
        head = model.lm_head.weight * model.model.norm.weight
        head -= head.mean(0)  # what raises a word and not all words
        words = [head[base.tokenizer(word, add_special_tokens=False)["input_ids"][0]] for word in WORDS]
    shapes = {name: (out, into) for name, out, into in module_shapes(EMBEDDED)}
    made = []
    for seed, (word, u) in enumerate(zip(WORDS, words)):
        noise = np.random.default_rng(seed)
        updates = []
        for name, (out, into) in shapes.items():
            B, A = noise.standard_normal((out, 2)) * 1e-3, noise.standard_normal((2, into)) * 1e-3
            if name == MODULE:
                B[:, 0], A[0] = 60 * (u / u.norm()).numpy(), (v / v.norm()).numpy()
            updates.append(Update(name, B.astype(np.float32), A.astype(np.float32)))
        made.append(finished_run(server.home, f"says {word}", updates, {"name": "lora", "rank": 2}).id)
    return made


@pytest.fixture(scope="module")
def lab(browser: Any, server: Any, runs: list[str]) -> Any:
    """The tab with both runs ticked."""
    with guarded(browser) as context:
        page = context.new_page()
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{server.url}?tab=lab&runs={','.join(runs)}")
        page.locator("#lp-lab-tabs").wait_for()
        yield page


def section(page: Any, name: str) -> None:
    page.locator('#lp-lab-tabs [role="tab"]').filter(has_text=name).first.click()


def said(page: Any, part: str, count: int) -> list[str]:
    """The answers, once there are so many and all have been given."""
    rows = page.locator(f"#{part} .said")
    until(page, lambda: rows.count() == count and "…" not in rows.all_inner_texts(), f"{count} answers")
    last: list[str] = []
    while last != (now := rows.all_inner_texts()):
        last = now
        page.wait_for_timeout(1000)
    return last


def slide(page: Any, name: str) -> None:
    """Keeps a picture of the page where a folder for them was named, in both themes at two widths."""
    if not (folder := os.environ.get("LORA_PLAYGROUND_SLIDES")):
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        for width, height in ((1280, 900), (1920, 1080)):
            page.set_viewport_size({"width": width, "height": height})
            page.mouse.move(2, 2)
            page.wait_for_timeout(1200)
            keep(page.screenshot(full_page=True), Path(folder) / f"{name}-{width}-{theme}.png")
        page.locator(".lp-theme").click()
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_reader_names_the_word_that_a_direction_says(lab: Any) -> None:
    page = lab
    section(page, "Directions")
    until(page, lambda: page.locator("#lp-dir-prompt textarea").input_value(), "a text of the test part")
    assert page.locator("#lp-dir-module input").input_value() == "layer 6 · down_proj", "as other tabs call it"
    page.locator("#lp-dir-prompt textarea").fill(QUESTION)
    page.locator("#lp-dir-read").click()
    base, whole, alone, without, random = said(page, "lp-dir-answers", 5)
    assert whole.startswith("fish") and alone.startswith("fish"), "this direction is what the run says"
    assert without == base, "the rest of it is too small to change a word"
    assert "fish" not in random, "not any direction of that strength says it"
    card = page.locator("#lp-dir-card")
    assert "times as strongly as random directions" in card.inner_text() and "raises “fish”" in card.inner_text()
    assert card.locator(".lp-lead").inner_text().count("“fish”") == 1, "with a space before it, it is the same word"
    raised = card.locator(".lp-says li").first
    assert raised.locator("code").inner_text() == "fish" and raised.locator("i.out").count() == 1
    assert "Plain token frequency explains" in card.inner_text()
    shown = card.locator(".lp-reads").first.locator("span")
    assert " Mia" in shown.all_inner_texts()
    strengths = shown.evaluate_all("all => all.map((span) => Number(span.style.getPropertyValue('--v')))")
    beside = card.locator(".lp-reads").nth(1).locator("span")
    quiet = beside.evaluate_all("all => all.map((span) => Number(span.style.getPropertyValue('--v')))")
    assert max(strengths[1:]) == 1 and max(quiet[1:]) < 0.5, "coloured on one scale with a random direction"
    slide(page, "direction")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(600)
    assert widest(page) <= 390
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_direction_of_noise_has_nothing_to_show(lab: Any) -> None:
    page = lab
    section(page, "Directions")
    page.locator("#lp-dir-prompt textarea").fill(QUESTION)
    page.locator("#lp-dir-index input[type=range]").press("End")
    page.locator("#lp-dir-read").click()
    card = page.locator("#lp-dir-card .lp-direction")
    until(page, lambda: "Direction 2 of 2" in card.inner_text(), "the second direction")
    assert "is-quiet" in (card.get_attribute("class") or ""), card.inner_text()
    base, _, alone, *_ = said(page, "lp-dir-answers", 5)
    assert alone == base


def test_sliders_mix_two_adapters(lab: Any, server: Any, runs: list[str]) -> None:
    page = lab
    section(page, "Merge")
    until(page, lambda: page.locator("#lp-mix-w1").is_visible() and not page.locator("#lp-mix-w2").is_visible(), "two")
    page.locator("#lp-mix-prompt textarea").fill(QUESTION)
    page.locator("#lp-mix-ask").click()
    mixture, first, second, base = said(page, "lp-mix-answers", 4)
    assert first.startswith("fish") and second.startswith("sun") and "fish" not in base
    assert mixture.startswith("fish"), "of two words the one that is raised more"
    slide(page, "merge")
    for weights, expected in (((1, 0), first), ((0, 0), base), ((0.5, 1), second)):
        weigh(page, *weights)
        assert said(page, "lp-mix-answers", 4)[0] == expected, f"weights {weights}"
    page.locator("#lp-mix-save").click()
    until(page, lambda: "Saved as" in page.locator("#lp-mix-said").inner_text(), "the mixture as a run")
    store = RunStore(server.home)
    (made,) = [id for id in server.runs() if store.get(id).label.startswith("Sum")]
    kept = {u.name: u for u in load_updates(store.get(made).update_path)}[MODULE]
    parts = [{u.name: u for u in load_updates(store.get(id).update_path)}[MODULE] for id in runs]
    np.testing.assert_allclose(kept.matrix(), 0.5 * parts[0].matrix() + parts[1].matrix(), atol=1e-5)
    store.delete(made)


def weigh(page: Any, *weights: float) -> None:
    """Moves the sliders, and waits for the mixture's answer at these weights."""
    for number, weight in enumerate(weights):
        box = page.locator(f"#lp-mix-w{number} input[type=number]")
        box.fill(str(weight))
        box.press("Tab")
    told = " ".join(f"{weight:+g}" for weight in weights)
    who = page.locator("#lp-mix-answers .who small").first
    until(page, lambda: told in who.inner_text() and "ms" in who.inner_text(), f"the mixture at {told}")
