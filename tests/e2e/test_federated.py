"""The tab Federated as a person uses it: the split, a refusal, two strategies live, a client beside the global one."""

import json

import pytest

from tests.e2e.steps import choose, points, set_number, until


def open_tab(page) -> None:
    page.get_by_role("tab", name="Federated").click()
    page.locator("#lp-fed-start").wait_for()


def tick_only(page, *labels: str) -> None:
    """Leaves just these strategies ticked."""
    for box in page.locator("#lp-fed-strategies label").all():
        wanted = box.inner_text().strip() in labels
        if box.locator("input").is_checked() != wanted:
            box.click()


def words(page, name: str) -> str:
    return page.locator(f"#lp-fed-{name}").inner_text()


@pytest.mark.timeout(3000)
def test_compare_two_strategies_and_chat_with_one_client(page, server):
    page.set_default_timeout(240_000)
    open_tab(page)
    choose(page, "lp-fed-dataset", "Sentiment")
    set_number(page, "lp-federated-clients", "3")
    choose(page, "lp-federated-partition", "dirichlet")
    until(page, lambda: "3 clients hold" in words(page, "split-words"), "the split in words")
    assert "of 3 groups" in words(page, "split-words")
    until(page, lambda: points(page, "lp-fed-split"), "the stacked bar")
    set_number(page, "lp-federated-rounds", "2")
    set_number(page, "lp-federated-local-steps", "2")
    tick_only(page, "FedIT", "FedEx-LoRA")

    page.locator("#lp-federated-ranks textarea, #lp-federated-ranks input").first.fill("2, 4, 8")
    page.locator("#lp-fed-start").click()
    until(page, lambda: "needs one rank for all clients" in words(page, "problem"), "the refusal")
    assert server.runs() == [], "nothing was queued"

    page.locator("#lp-federated-ranks textarea, #lp-federated-ranks input").first.fill("2")
    page.locator("#lp-fed-start").click()
    until(page, lambda: words(page, "problem") == "" and len(server.runs()) == 2, "two runs")
    configs = [json.loads((server.home / "runs" / run / "config.json").read_text()) for run in server.runs()]
    assert sorted(config["federated"]["strategy"] for config in configs) == ["fedex", "fedit"]
    assert all(config["federated"]["ranks"] == [2] and config["federated"]["clients"] == 3 for config in configs)

    until(page, lambda: "1 of 2" in words(page, "table") or "2 of 2" in words(page, "table"), "a round", 1200)
    until(page, lambda: words(page, "table").count("2 of 2") == 2 and "(" not in words(page, "table"), "both", 1200)
    assert "exact" in words(page, "table")
    assert len(points(page, "lp-fed-error")) == 2 and len(points(page, "lp-fed-loss")) == 3
    assert "FedEx-LoRA: exact" in words(page, "error-words")
    spectrum = points(page, "lp-fed-spectrum", 0)
    assert spectrum and spectrum == sorted(spectrum, reverse=True)
    assert "directions" in words(page, "spectrum-words")

    until(page, lambda: page.locator("#lp-fed-client input").input_value().startswith("client"), "kept clients")
    page.locator("#lp-fed-beside").click()
    until(page, lambda: "Open Chat" in words(page, "said"), "the client's run")
    assert len(server.runs()) == 3
    page.get_by_role("tab", name="Chat").click()
    until(page, lambda: page.locator(".lp-pane").count() == 3, "base, global and client side by side")
