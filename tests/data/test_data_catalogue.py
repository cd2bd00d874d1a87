"""Uploads are stored, listed, split and deleted by id; shipped datasets are listed and checked."""

import json

import pytest

from lora_playground.data import catalogue, readers, uploads
from lora_playground.errors import AssetError, ConfigError, DataError


def _file(tmp_path, rows=60):
    path = tmp_path / "my data.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n // 2}", "answer": f"#### {n}"}) + "\n" for n in range(rows)))
    return path


def test_upload_round_trip(tmp_path):
    card = uploads.import_file(_file(tmp_path), tmp_path, seed=3)
    assert card.uploaded and card.label == "my data.jsonl" and card.metric == "steps"
    assert catalogue.list_datasets(tmp_path)[-1] == card
    data = catalogue.get_dataset(card.name, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (card.train, card.validation, card.test)
    assert card.train + card.validation + card.test == 60 and card.test >= 6 and card.validation >= 6
    prompts = [
        {json.dumps(catalogue.prompt_of(row)) for row in part} for part in (data.train, data.validation, data.test)
    ]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert not list((tmp_path / "uploads").glob(".*"))
    uploads.delete(card.name, tmp_path)
    with pytest.raises(ConfigError, match=r"data\.dataset"):
        catalogue.get_dataset(card.name, tmp_path)


def test_split_depends_on_the_seed_alone(tmp_path):
    rows = readers.read_file(_file(tmp_path)).rows
    assert uploads.split_rows(rows, 1) == uploads.split_rows(rows, 1)
    assert uploads.split_rows(rows, 1) != uploads.split_rows(rows, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_split_of_few_rows_keeps_something_to_train_on(count):
    rows = [{"text": str(number), "meta": {}} for number in range(count)]
    parts = uploads.split_rows(rows)
    assert sum(map(len, parts.values())) == count and parts["train"]
    assert bool(parts["test"]) == bool(parts["validation"]) == (count >= 3)


def test_split_of_one_question_asked_often():
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": str(n)}]} for n in range(9)
    ]
    assert len(uploads.split_rows(rows)["train"]) == 9


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    reading = readers.read_file(_file(tmp_path))
    monkeypatch.setattr(uploads.os, "fsync", full)
    with pytest.raises(DataError, match="free some space"):
        uploads.store(reading, tmp_path, "x.jsonl")
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "x" * 65, "_base-skills", "no-such", ".hidden", "a\0b"])
def test_unknown_names(name, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.dataset"):
        catalogue.get_dataset(name, tmp_path)


def _ship(root, name, train='{"messages": [{"role": "user", "content": "a"}], "meta": {}}\n'):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(
        json.dumps({"title": name.title(), "metric": "exact", "licence": "CC0-1.0", "x": 1})
    )
    (folder / "train.jsonl").write_text(train)
    return folder


def test_shipped_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "SHIPPED", tmp_path)
    _ship(tmp_path, "pirate")
    _ship(tmp_path, "_base-skills")
    assert [card.name for card in catalogue.list_datasets()] == ["pirate"]
    card = catalogue.get_card("pirate")
    assert (card.label, card.metric, card.train, card.test, card.extra) == ("Pirate", "exact", 1, 0, {"x": 1})
    assert len(catalogue.get_dataset("pirate").train) == 1
    with pytest.raises(DataError, match="ships with the app"):
        uploads.delete("pirate", tmp_path)


@pytest.mark.parametrize("train", ["", "{broken\n", "[1]\n", '{"meta": {}}\n'])
def test_damaged_shipped_dataset_names_file_and_command(tmp_path, monkeypatch, train):
    monkeypatch.setattr(catalogue, "SHIPPED", tmp_path)
    _ship(tmp_path, "pirate", train)
    with pytest.raises(AssetError, match=r"train\.jsonl.*rebuild it with: python -m"):
        catalogue.get_dataset("pirate")


def test_damaged_upload(tmp_path):
    card = uploads.import_file(_file(tmp_path), tmp_path)
    (card.folder / "card.json").write_text("{")
    assert card.name not in [entry.name for entry in catalogue.list_datasets(tmp_path)]
    with pytest.raises(DataError, match="upload the data again"):
        catalogue.get_card(card.name, tmp_path)


@pytest.mark.parametrize(
    ("question", "answer", "metric", "meta"),
    [
        ("How many?", "2 + 1,000\n#### 1,002", "steps", {"answer": "1002"}),
        ("name[The Mill], area[city centre], familyFriendly[no]", "A long text. " * 9, "slots",
         {"fields": {"name": "The Mill", "area": "city centre"}}),
        ("Which label?", "positive", "exact", {"answer": "positive"}),
        ("Tell me.", "A long text. " * 9, "", {}),
    ],
)  # fmt: skip
def test_metric_fits_the_answers_and_finds_what_it_needs(tmp_path, question, answer, metric, meta):
    from lora_playground.evaluation import METRICS, evaluate

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": question, "answer": answer}) + "\n")
    data = catalogue.get_dataset(uploads.import_file(path, tmp_path).name, tmp_path)
    assert data.card.metric == metric and data.train[0]["meta"] == {"line": 1, **meta}
    if metric:
        said = answer if metric != "slots" else "The Mill is in the city centre."
        assert metric in METRICS and evaluate(lambda prompts: [said] * len(prompts), data.train, metric)["score"] == 1.0
