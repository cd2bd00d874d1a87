"""A file of one's own, all the way: uploaded, its columns mapped, trained on, scored, talked to, taken along."""

import csv
import json
import zipfile

from safetensors.numpy import load_file

from lora_playground.models.catalogue import EMBEDDED
from tests.e2e.steps import (
    answers,
    choose_column,
    open_advanced,
    open_fold,
    open_tab,
    points,
    set_number,
    status,
    until,
)

PLACES = ("Aroma", "Blue Spice", "Cotto", "The Mill", "The Vaults", "Zizzi", "Strada", "Loch Fyne")
FOODS = ("French", "Indian", "Italian", "Chinese", "English")


def write_table(path) -> int:
    """Meanings and sentences, as such tables are found in the wild: two columns whose names say nothing."""
    rows = [
        {"mr": f"name[{place}], food[{food}]", "ref": f'{place} serves "{food}" food, and it is good.'}
        for place in PLACES
        for food in FOODS
    ]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["mr", "ref"])
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def test_from_a_table_to_a_model_that_can_be_taken_along(page, server, tmp_path):
    rows = write_table(tmp_path / "restaurants.csv")
    before = server.runs()
    open_fold(page, "lp-upload-fold")
    page.locator("#lp-upload input[type=file]").set_input_files(str(tmp_path / "restaurants.csv"))
    note = page.locator("#lp-upload-note")
    until(page, lambda: note.inner_text().strip(), "what was found")
    page.locator("#lp-upload-again").wait_for()
    choose_column(page, "Asks", "mr")
    choose_column(page, "Answers", "ref")
    page.locator("#lp-upload-again").click()
    until(page, lambda: f"{rows} rows read" in note.inner_text(), "the rows by our columns")
    until(page, lambda: 'serves "French" food' in page.locator("#lp-examples").inner_text(), "its first rows as chats")

    set_number(page, "lp-steps-number", "6")
    open_advanced(page)
    set_number(page, "lp-training-batch-tokens", "128")
    page.locator("#lp-train").click()
    (run,) = until(page, lambda: set(server.runs()) - set(before), "the run")
    until(page, lambda: "adapter on disk" in status(page), "the result")
    assert "%" in page.locator("#lp-status .lp-score").inner_text(), "it was scored on rows kept back"
    assert "restaurants.csv" in status(page), "the run is called after the file"
    assert "memory of all tensors (estimated: " in status(page)
    assert len(points(page, "lp-scree")) == 8

    take_along(page, server, run, tmp_path)

    page.locator("#lp-way-chat").click()
    until(page, lambda: page.locator(".lp-pane").count() == 2, "two panes")
    until(page, lambda: len(answers(page)) == 2 and all(answers(page)), "both answers")
    assert "name[" in page.locator(".lp-pane .q").first.inner_text(), "a question from the file's test part"
    until(page, lambda: page.locator("#lp-send").is_visible(), "the end of both answers")


def write_problems(path) -> int:
    """Word problems with worked answers, as GSM8K has them; line 3 repeats line 1, lines 8 and 9 cannot be used."""
    rows = [
        {
            "question": f"{name} sold {n} clips in April and {n + 2} in May. How many did {name} sell altogether?",
            "answer": f"{name} sold {n}+{n + 2} = <<{n}+{n + 2}={2 * n + 2}>>{2 * n + 2} clips.\n#### {2 * n + 2}",
        }
        for name in ("Natalia", "Weng", "Betty")
        for n in range(3, 13)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[2] = lines[0]
    lines[7] = lines[7].replace('"answer"', '"reply"')
    lines[8] = lines[8][:-4]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - 2


def test_word_problems_are_read_shown_and_costed(page, tmp_path):
    rows = write_problems(tmp_path / "problems.jsonl")
    open_fold(page, "lp-upload-fold")
    page.locator("#lp-upload input[type=file]").set_input_files(str(tmp_path / "problems.jsonl"))
    note = page.locator("#lp-upload-note")
    until(page, lambda: f"{rows} rows read" in note.inner_text(), "what was found")
    for fold in note.locator("summary").all():
        fold.click()
    said = note.inner_text()
    assert "1 row repeats an earlier one" in said and "Line 3." in said
    assert "2 rows were left out" in said and "line 8: the field 'answer' is missing" in said and "line 9" in said
    until(page, lambda: "Natalia sold 3 clips" in page.locator("#lp-examples").inner_text(), "its first rows as chats")
    see_as_the_model(page)

    set_number(page, "lp-steps-number", "4")
    open_advanced(page)
    cost = page.locator("#lp-cost .lp-cost")
    until(page, lambda: cost.get_attribute("class").endswith("good"), "what it costs, in green")
    foreseen = cost.inner_text()
    set_number(page, "lp-training-batch-tokens", "128")
    until(page, lambda: cost.inner_text() != foreseen, "less memory for a smaller batch")


def test_a_table_with_labels_is_learned_as_a_classification(page, server, tmp_path):
    things = "house car pen lamp door book chair cup table bag shoe coat phone radio clock bike boat knife".split()
    lines = [f"The {thing} is {word}.,{label}" for label, words in (("good", "fine lovely"), ("bad", "broken awful"))
             for thing in things for word in words.split()]  # fmt: skip
    (tmp_path / "mood.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    open_fold(page, "lp-upload-fold")
    page.locator("#lp-upload input[type=file]").set_input_files(str(tmp_path / "mood.csv"))
    until(page, lambda: "72 rows read" in page.locator("#lp-upload-note").inner_text(), "what was found")
    until(page, lambda: page.locator("#lp-upload-labels input").is_checked(), "that the answers are labels")
    examples = page.locator("#lp-examples")
    labels = examples.locator(".lp-bubble.by-model")
    until(page, lambda: {text.split()[-1] for text in labels.all_inner_texts()} == {"good", "bad"}, "both labels")
    set_number(page, "lp-steps-number", "30")
    page.locator("#lp-train").click()
    until(page, lambda: "adapter on disk" in status(page), "the result")
    assert "mood.csv · lora r8 · 30 steps" in status(page), "named by its file, and by what tells a run from others"
    assert "Macro F1" in status(page) and "most frequent" in status(page), "it was scored as a classification"
    score = json.loads((server.home / "runs" / server.runs()[-1] / "result.json").read_text())["score"]
    assert score["adapted"] > score["base"], "the labels were learned"
    open_tab(page, "Chat")
    starters = page.locator(".lp-starters button")
    until(page, lambda: starters.count() > 1 and "… " in starters.first.inner_text(), "prompts by what differs")


def see_as_the_model(page) -> None:
    """Opens the preview: only the answer and the mark that ends it are coloured, and the lengths are drawn."""
    open_fold(page, "lp-preview-fold")
    seen = page.locator("#lp-preview")
    until(page, lambda: seen.locator("mark").count() >= 3, "what is learned")
    first = seen.locator("pre").first
    assert "Natalia sold 3 clips" in first.inner_text()
    assert first.locator("mark").count() == 1 and first.locator("mark").inner_text().startswith("Natalia sold 3+5")
    assert "####" in first.locator("mark").inner_text()
    assert seen.locator(".lp-lengths i").count() > 1 and "Lengths: " in seen.inner_text()
    assert "1 repeats an earlier row" in seen.inner_text()


def take_along(page, server, run, folder) -> None:
    """Downloads all three formats and looks into each."""
    kept = {}
    for name in ("peft", "lora", "merged"):
        until(page, lambda name=name: page.locator(f"#lp-export-{name}").is_enabled(), "the button")
        with page.expect_download() as waiting:
            page.locator(f"#lp-export-{name}").click()
        assert waiting.value.suggested_filename == f"{run}-{name}.zip"
        with zipfile.ZipFile(waiting.value.path()) as archive:
            archive.extractall(folder)
        kept[name] = folder / f"{run}-{name}"
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(EMBEDDED), str(kept["peft"]))
    assert stock.active_peft_config.r == 8 and any("lora_B" in name for name, _ in stock.named_parameters())
    card, adapter = ((kept["peft"] / name).read_text() for name in ("README.md", "adapter_config.json"))
    assert all(words in card for words in ("restaurants.csv", "rank 8", "6 steps", "95% intervals", "apache-2.0")), card
    assert json.loads(adapter)["base_model_name_or_path"] == "embedded" and str(server.home) not in card + adapter
    saved = {name: load_file(kept[name] / "adapter_model.safetensors") for name in ("peft", "lora")}
    assert json.loads((kept["lora"] / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert len(saved["lora"]) == len(saved["peft"]) == 2 * 49
    assert (kept["merged"] / "model.safetensors").stat().st_size > 10_000_000
    assert (kept["merged"] / "config.json").is_file() and (kept["merged"] / "tokenizer.json").is_file()
