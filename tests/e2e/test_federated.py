"""The tab Federated as a person uses it: the split, a refusal, two strategies live, the global adapter as a file, a
client beside the global one; and runs that are stopped and go on."""

import json
import zipfile
from pathlib import Path

from tests.e2e.steps import choose, open_tab, points, set_number, settled, until


def open_federated(page) -> None:
    open_tab(page, "Federated")
    page.locator("#lp-fed-start").wait_for()


def tick_only(page, *labels: str) -> None:
    """Leaves just these strategies ticked."""
    for box in page.locator("#lp-fed-strategies label").all():
        wanted = box.inner_text().strip() in labels
        if box.locator("input").is_checked() != wanted:
            box.click()


def words(page, name: str) -> str:
    return page.locator(f"#lp-fed-{name}").inner_text()


def test_compare_two_strategies_and_chat_with_one_client(page, server):
    before = server.runs()
    open_federated(page)
    assert not page.locator("#lp-fed-body").is_visible() and not page.locator("#lp-fed-stop").is_visible()
    choose(page, "lp-fed-dataset", "Sentiment")
    set_number(page, "lp-federated-clients", "3")
    choose(page, "lp-federated-partition", "dirichlet")
    until(page, lambda: "3 clients hold" in words(page, "split-words"), "the split in words")
    assert "of 3 groups" in words(page, "split-words")
    until(page, lambda: points(page, "lp-fed-split"), "the stacked bar")
    set_number(page, "lp-federated-rounds", "2")
    set_number(page, "lp-federated-local-steps", "2")
    page.locator("#lp-federated").get_by_role("button", name="Advanced").click()
    settled(page)
    set_number(page, "lp-fed-training-batch-tokens", "128")
    tick_only(page, "FedIT", "FedEx-LoRA")
    page.locator("#lp-federated").get_by_role("button", name="What these strategies do").click()
    until(page, lambda: page.locator("#lp-fed-cards .katex-display").count() == 2, "the equations")

    page.locator("#lp-federated-ranks textarea, #lp-federated-ranks input").first.fill("2, 4, 8")
    page.locator("#lp-fed-start").click()
    until(page, lambda: "needs one rank for all clients" in words(page, "problem"), "the refusal")
    assert server.runs() == before, "nothing was queued"

    page.locator("#lp-federated-ranks textarea, #lp-federated-ranks input").first.fill("2")
    page.locator("#lp-fed-start").dblclick()

    def started() -> list[str]:
        return sorted(set(server.runs()) - set(before))

    until(page, lambda: words(page, "problem") == "" and len(started()) == 2, "two runs")
    configs = [json.loads((server.home / "runs" / run / "config.json").read_text()) for run in started()]
    assert sorted(config["federated"]["strategy"] for config in configs) == ["fedex", "fedit"]
    assert all(config["federated"]["ranks"] == [2] and config["federated"]["clients"] == 3 for config in configs)

    until(page, lambda: "1 of 2" in words(page, "table") or "2 of 2" in words(page, "table"), "a round")
    until(page, lambda: words(page, "table").count("2 of 2") == 2 and "(" not in words(page, "table"), "both")
    assert len(started()) == 2, "two clicks start each strategy once"
    assert "exact" in words(page, "table")
    assert len(points(page, "lp-fed-error")) == 2 and len(points(page, "lp-fed-loss")) == 3
    assert "FedEx-LoRA: exact" in words(page, "error-words")
    spectrum = points(page, "lp-fed-spectrum", 0)
    assert spectrum and spectrum == sorted(spectrum, reverse=True)
    assert "directions" in words(page, "spectrum-words")

    assert len(points(page, "lp-fed-rank")) == 2 and "K·r = 6" in words(page, "rank-words")

    with page.expect_download() as waiting:
        page.locator("#lp-fed-export-lora").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        names = [Path(name).name for name in archive.namelist()]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names)

    until(page, lambda: page.locator("#lp-fed-client input").input_value().startswith("client"), "kept clients")
    page.locator("#lp-fed-beside").click()
    until(page, lambda: page.locator(".lp-pane").count() == 3, "base, global and client side by side, in Chat")
    assert len(started()) == 3


def test_stop_and_resume(page, server):
    before = set(server.runs())
    open_federated(page)
    choose(page, "lp-fed-dataset", "Sentiment")
    set_number(page, "lp-federated-clients", "2")
    set_number(page, "lp-federated-rounds", "3")
    set_number(page, "lp-federated-local-steps", "10")
    page.locator("#lp-federated").get_by_role("button", name="Advanced").click()
    settled(page)
    set_number(page, "lp-fed-training-batch-tokens", "128")
    tick_only(page, "FLoRA (stacking)")
    page.locator("#lp-fed-start").click()
    until(page, lambda: "client" in words(page, "table") and "trains" in words(page, "table"), "whose turn it is")
    until(page, lambda: "1 of 3" in words(page, "table"), "a round")
    page.locator("#lp-fed-stop").click()
    until(page, lambda: page.locator("#lp-fed-resume").is_visible(), "that it can be resumed")
    assert "stopped" in words(page, "table") and not page.locator("#lp-fed-stop").is_visible()
    page.locator("#lp-fed-resume").click()
    until(
        page, lambda: "3 of 3" in words(page, "table") and "(" not in words(page, "table").split("3 of 3")[1], "the end"
    )
    (run,) = set(server.runs()) - before
    events = [json.loads(line) for line in (server.home / "runs" / run / "events.jsonl").read_text().splitlines()]
    assert {event.get("attempt", 1) for event in events} == {1, 2}
    assert [event["round"] for event in events if event["type"] == "round"] == [0, 1, 2, 3]
