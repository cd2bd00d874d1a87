"""The datasets: the files are what the code makes, test parts lie apart from training parts, references score full."""

import json

import pytest

from lora_playground.data.catalogue import SHIPPED, read_rows
from lora_playground.evaluation import METRICS
from tools.embedded_model import datasets, tasks
from tools.embedded_model.world import build_world

WORLD = build_world()
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def made():
    return {recipe.name: datasets.make_rows(recipe, WORLD) for recipe in datasets.RECIPES}


@pytest.mark.parametrize("recipe", datasets.RECIPES, ids=lambda r: r.name)
def test_the_files_are_what_the_code_makes(recipe, made):
    for split in SPLITS:
        assert read_rows(SHIPPED / recipe.name / f"{split}.jsonl") == made[recipe.name][split]


@pytest.mark.parametrize("recipe", datasets.RECIPES, ids=lambda r: r.name)
def test_no_prompt_is_in_two_parts(recipe, made):
    asked = {split: {datasets.question(row) for row in made[recipe.name][split]} for split in SPLITS}
    assert not asked["test"] & asked["train"]
    assert not asked["validation"] & asked["train"]
    assert not asked["test"] & asked["validation"]


@pytest.mark.parametrize("recipe", datasets.RECIPES, ids=lambda r: r.name)
def test_reference_answers_score_full_marks(recipe, made):
    for split in SPLITS:
        for row in made[recipe.name][split]:
            assert METRICS[recipe.metric].score(row["messages"][-1]["content"], row) == 1, row


@pytest.mark.parametrize("recipe", datasets.RECIPES, ids=lambda r: r.name)
def test_the_card_tells_the_truth(recipe, made):
    card = json.loads((SHIPPED / recipe.name / "card.json").read_text())
    parts = made[recipe.name]
    assert card["rows"] == {split: len(parts[split]) for split in SPLITS}
    assert card["metric"] in METRICS and card["metric_label"] == METRICS[card["metric"]].label
    assert set(card["probes"]) <= {datasets.question(row) for row in parts["test"]}
    assert len(card["probes"]) == 3 and card["teaches"] and card["mirrors"]
    assert card["command"].startswith("python -m tools.embedded_model")


def test_test_parts_are_about_other_people(made):
    for name, field in (("json", "name"), ("summary", "hero")):
        people = {split: {row["meta"]["fields"][field] for row in made[name][split]} for split in SPLITS}
        assert people["test"] and people["train"]
        assert not people["test"] & people["train"]


def test_new_facts_are_about_people_of_whom_the_base_knows_nothing(made):
    known = {p.name for p in WORLD.people}
    newcomers = {name for name, _ in WORLD.newcomers}
    for name in ("facts-small", "facts-medium", "facts-large"):
        for row in made[name]["train"]:
            answer = row["messages"][-1]["content"]
            person = answer.split(" ")[0]
            assert person in newcomers and person not in known
    sizes = [len(made[name]["train"]) for name in ("facts-small", "facts-medium", "facts-large")]
    assert sizes == sorted(sizes) and sizes[0] * 4 <= sizes[2]


def test_every_tested_new_fact_is_in_the_training_part(made):
    for name in ("facts-small", "facts-medium", "facts-large"):
        told = {row["messages"][-1]["content"] for row in made[name]["train"]}
        assert {row["messages"][-1]["content"] for row in made[name]["test"]} <= told


def test_translation_puts_the_verb_last_and_qualities_behind(made):
    from tools.embedded_model.sentences import Scene

    scene = Scene(("the", "big", "dog"), "sees", ("the", "", "cat"), "")
    assert scene.english == "The big dog sees the cat."
    assert tasks.translate(scene) == "bova gran miru vasit"
    said = {split: {row["meta"]["answer"] for row in made["translation"][split]} for split in SPLITS}
    assert not said["test"] & said["train"]


def test_word_problems_add_up(made):
    for row in made["word-problems"]["train"]:
        left, right = row["messages"][-1]["content"].split(" = ")
        assert right == f"{eval(left)} #### {row['meta']['answer']}"


def test_base_skill_probes_are_scorable_and_many():
    rows = read_rows(SHIPPED / datasets.BASE_SKILLS / "test.jsonl")
    assert len(rows) > 150 and len({row["meta"]["skill"] for row in rows}) >= 12
    for row in rows:
        assert METRICS[row["meta"]["metric"]].score(row["messages"][-1]["content"], row) == 1
    assert len(read_rows(SHIPPED / datasets.BASE_SKILLS / "rehearsal.jsonl")) >= 1000
