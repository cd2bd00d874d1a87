"""Texts with labels become a classification, in any script, and its test part has every label."""

import json
from collections import Counter

import pytest

from lora_playground.data import readers
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.uploads import import_file, split_rows, store
from lora_playground.evaluation import evaluate


def table(header, labels, count=90):
    lines = (f"Text {number} of many,{labels[number % len(labels)]}" for number in range(count))
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize(
    "header", ["text,label", "sentence,class", "review,sentiment", "Headline,Topic", "tweet,emotion"]
)
@pytest.mark.parametrize("labels", [("good", "bad", "so so"), ("да", "нет"), ("0", "1", "2"), ("👍", "👎")])
def test_a_table_becomes_a_classification(tmp_path, header, labels):
    (tmp_path / "a.csv").write_text(table(header, labels))
    data = get_dataset(import_file(tmp_path / "a.csv", tmp_path).name, tmp_path)
    assert data.card.metric == "label"
    asked = data.test[0]["messages"][0]["content"]
    assert all(label in asked.split("\n")[0] for label in labels) and "Text" in asked
    assert {row["meta"]["label"] for row in data.test} == set(labels)
    right = evaluate(
        lambda chats: [row["messages"][-1]["content"].upper() + "." for row in data.test], data.test, "label"
    )
    wrong = evaluate(lambda chats: ["other"] * len(chats), data.test, "label")
    assert (right["score"], right["macro_f1"], wrong["score"], wrong["macro_f1"]) == (1, 1, 0, 0)
    assert right["majority"] == pytest.approx(1 / len(labels), abs=0.1)


def test_rare_labels_are_in_every_part():
    rows = readers.read_bytes(table("text,label", ["usual"] * 29 + ["rare"], 300).encode(), "a.csv").rows
    parts = split_rows(rows, seed=1)
    counts = {split: Counter(row["meta"]["label"] for row in part) for split, part in parts.items()}
    assert counts["test"] == counts["validation"] == {"usual": 29, "rare": 1} and counts["train"]["rare"] == 8
    assert split_rows(rows, seed=1) == parts != split_rows(rows, seed=2)


def test_numbers_get_the_names_that_the_file_has():
    pairs = [{"text": f"t{n}", "label": n % 2, "label_text": ["neg", "pos"][n % 2], "id": n} for n in range(20)]
    reading = readers.read_bytes("".join(json.dumps(pair) + "\n" for pair in pairs).encode(), "a.jsonl")
    assert {row["meta"]["label"] for row in reading.rows} == {"neg", "pos"}
    assert "not used: id" in reading.notes
    viewer = {
        "features": [{"name": "text"}, {"name": "label", "type": {"names": ["neg", "pos"], "_type": "ClassLabel"}}],
        "rows": [{"row_idx": n, "row": {"text": f"t{n}", "label": n % 2}} for n in range(20)],
    }
    reading = readers.read_bytes(json.dumps(viewer).encode(), "a.json")
    assert [row["meta"]["label"] for row in reading.rows[:2]] == ["neg", "pos"]
    for key, names in (("label_names", ["neg", "pos"]), ("id2label", {"0": "neg", "1": "pos"})):
        document = {key: names, "data": [{"text": f"t{n}", "label": n % 2} for n in range(20)]}
        reading = readers.read_bytes(json.dumps(document).encode(), "a.json")
        assert [row["meta"]["label"] for row in reading.rows[:2]] == ["neg", "pos"]
        assert not any("not used" in note for note in reading.notes)
    plain = readers.read_bytes(table("text,label", ("0", "1")).encode(), "a.csv")
    assert any("labels are numbers" in note for note in plain.notes)


def test_names_of_classes_in_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": [f"t{n}" for n in range(8)], "label": [0, 1] * 4}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    reading = readers.read_file(tmp_path / "a.parquet")
    assert [row["meta"]["label"] for row in reading.rows[:2]] == ["neg", "pos"]


def test_two_texts_and_a_label():
    pairs = [{"premise": f"p{n}", "hypothesis": "h", "label": ["yes", "no"][n % 2]} for n in range(8)]
    row = readers.read_bytes(json.dumps(pairs).encode(), "a.json").rows[0]
    assert row["messages"][0]["content"].endswith("\n\npremise: p0\nhypothesis: h")


def test_labels_that_differ_in_capitals_are_one():
    reading = readers.read_bytes(table("text,label", ("Good", "Bad", "good", "Good")).encode(), "a.csv")
    assert {row["meta"]["label"] for row in reading.rows} == {"Good", "Bad"}
    assert any("capitals" in note for note in reading.notes)


def test_values_that_are_no_labels_stay_answers(tmp_path):
    reading = readers.read_bytes(table("text,label", [f"{n}.5" for n in range(90)]).encode(), "a.csv")
    assert any("learned as answers" in note for note in reading.notes) and "label" not in reading.rows[0]["meta"]
    assert store(reading, tmp_path, "a.csv").metric == "exact"


def test_a_person_can_say_which_column_is_the_label(tmp_path):
    (tmp_path / "a.csv").write_text(table("Рецензия,метка", ("да", "нет")))
    card = import_file(tmp_path / "a.csv", tmp_path, mapping={"text": "Рецензия", "label": "метка"})
    assert card.metric == "label"


@pytest.mark.parametrize(
    ("question", "metric"),
    [
        ("What does xs[0] return for a list[int]?", ""),
        ("dict[str], list[int]: which is larger?", ""),
        ("name[Ресторан А], food[Рыба]", "slots"),
        ("name[The Mill], customer rating[5 out of 5]", "slots"),
    ],
)
def test_only_a_list_of_slots_is_one(tmp_path, question, metric):
    lines = "".join(json.dumps({"question": f"{question}", "answer": "Long " * 20 + str(n)}) + "\n" for n in range(5))
    assert store(readers.read_bytes(lines.encode(), "a.jsonl"), tmp_path, "a").metric == metric
