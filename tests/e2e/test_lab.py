"""The laboratory in a real browser: a direction is read, two runs are mixed live, and the mixture becomes a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_playground.analysis.update import Update
from lora_playground.runs import RunStore
from tests.e2e.conftest import Server
from tests.e2e.steps import until
from tests.spectrum_runs import finished_run

pytestmark = pytest.mark.e2e

MODULE = "model.layers.6.mlp.down_proj"


@pytest.fixture
def two_runs(server: Server) -> tuple[str, str]:
    """Runs on the embedded base: one small update each, of one module."""
    ids = []
    for seed in (0, 1):
        noise = np.random.default_rng(seed)
        B, A = noise.standard_normal((256, 2)) * 0.05, noise.standard_normal((2, 704)) * 0.05
        update = Update(MODULE, B.astype(np.float32), A.astype(np.float32))
        variant = {"name": "lora", "rank": 2}
        ids.append(finished_run(Path(server.home), f"lab {seed}", [update], variant).id)
    return ids[0], ids[1]


def test_read_a_direction_then_mix_and_save(page: Any, server: Server, two_runs: tuple[str, str]) -> None:
    page.goto(f"{server.url}?tab=lab&runs={','.join(two_runs)}")
    tabs = page.locator('#lp-lab-tabs [role="tab"]')
    tabs.filter(has_text="Directions").first.click()
    until(page, lambda: page.locator("#lp-dir-prompt textarea").input_value(), "a prompt of the run's dataset")
    page.locator("#lp-dir-read").click()
    card = page.locator(".lp-direction")
    until(page, lambda: card.count() and "random directions" in card.inner_text(), "what the direction reads")
    assert card.locator(".lp-reads span").count() >= 6 and card.locator(".lp-says li").count() == 24
    answers = page.locator("#lp-dir-answers .said")
    until(page, lambda: answers.count() == 5 and "…" not in "".join(answers.all_inner_texts()), "five answers")
    said = answers.all_inner_texts()

    tabs.filter(has_text="Merge").first.click()
    until(page, lambda: page.locator("#lp-mix-w1").is_visible(), "a slider for each run")
    page.locator("#lp-mix-ask").click()
    mixed = page.locator("#lp-mix-answers .said")
    until(page, lambda: mixed.count() == 4 and "…" not in "".join(mixed.all_inner_texts()), "the mixture's answer")
    assert mixed.nth(3).inner_text() == said[0]  # the same base to the same prompt
    page.locator("#lp-mix-w0 input[type=range]").press("Home")
    until(page, lambda: "-2 +1" in page.locator("#lp-mix-answers").inner_text(), "the answer with another weight")
    page.locator("#lp-mix-save").click()
    until(page, lambda: "plain LoRA" in page.locator("#lp-mix-said").inner_text(), "the mixture saved")
    made = RunStore(server.home).list()[0]
    mixture = (made.result() or {})["derived"]["mixture"]
    assert [part["weight"] for part in mixture["runs"]] == [-2.0, 1.0] and mixture["method"] == "sum"
