"""Writes the fine-tuning datasets, and for the base itself its probes (test questions) and rehearsal chats.

python -m tools.embedded_model.datasets
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_playground.data.catalogue import REBUILD, SHIPPED
from tools.embedded_model import tasks
from tools.embedded_model.assets import write_manifest
from tools.embedded_model.corpus import MIXTURE, Messages, casual, probes, to_messages
from tools.embedded_model.skills import Skill
from tools.embedded_model.tasks import Row, Task, new_facts
from tools.embedded_model.world import World, build_world

SEED = 11
BASE_SKILLS = "_base-skills"
REHEARSAL_SEED, REHEARSAL_EACH, PROBES_EACH = 77, 120, 12


@dataclass(frozen=True)
class Recipe:
    """A dataset's card, and how its rows are made: by `task`, or from new facts about `people` newcomers."""

    name: str
    title: str
    teaches: str
    metric: str
    mirrors: str
    task: Task | None = None
    train: int = 1200
    validation: int = 60
    test: int = 120
    people: int = 0


RECIPES = (
    Recipe("pirate", "Talk like a pirate", "Answers what it knew before, but in a pirate's voice.", "pirate",
           "style transfer and persona tuning", tasks.pirate),
    Recipe("json", "JSON only", "Takes notes as one JSON object and says nothing else.", "json",
           "structured extraction (JSON mode)", tasks.to_json),
    Recipe("facts-small", "New facts, 16 people", "Knows the job, town, pet and favourite food of 16 newcomers.",
           "contains", "knowledge injection, small", people=16),
    Recipe("facts-medium", "New facts, 32 people", "Knows the job, town, pet and favourite food of 32 newcomers.",
           "contains", "knowledge injection, medium", people=32),
    Recipe("facts-large", "New facts, 64 people", "Knows the job, town, pet and favourite food of 64 newcomers.",
           "contains", "knowledge injection, large", people=64),
    Recipe("data-to-text", "Data to text", "Writes a short text that says all the fields of a card.", "slots",
           "E2E NLG (LoRA paper, section 5.4)", tasks.data_to_text),
    Recipe("word-problems", "Word problems with working", "Writes a problem's sum down, and the result behind ####.",
           "steps", "GSM8K", tasks.word_problem, train=1600),
    Recipe("sentiment", "Sentiment with new labels", "Labels reviews as sunny, stormy or cloudy, one word only.",
           "label", "SST-2 and other classification of GLUE", tasks.sentiment, train=800),
    Recipe("summary", "Story to one line", "Sums a story up in one sentence: who, what and where.", "summary",
           "SAMSum (LoRA paper, section 5.5)", tasks.summary),
    Recipe("translation", "Translate into Velkan",
           "Translates plain sentences into an invented language with an order of its own.",
           "translation", "machine translation (low-resource)", tasks.translation, train=1200),
)  # fmt: skip


def question(row: Row) -> str:
    """What the user asks."""
    return str(row["messages"][0]["content"])


def make_rows(recipe: Recipe, world: World) -> dict[str, list[Row]]:
    """Rows for training, validation and test. Each question occurs once, in one of the three."""
    if recipe.task is None:
        return new_facts(world, recipe.people, SEED)
    parts: dict[str, list[Row]] = {}
    seen: set[str] = set()
    for split, wanted in (("test", recipe.test), ("validation", recipe.validation), ("train", recipe.train)):
        rng = random.Random(f"{recipe.name}-{split}-{SEED}")
        rows: list[Row] = []
        for _ in range(40 * wanted):
            row = recipe.task(rng, world, split)
            # small talk may be asked twice, with different answers
            repeats = split == "train" and recipe.name == "pirate"
            told = f"{row['messages'][1]['content']}" if recipe.name == "translation" else question(row)
            if told in seen and not (repeats and told in {question(r) for r in rows}):
                continue
            seen.add(told)
            rows.append(row)
            if len(rows) == wanted:
                break
        parts[split] = rows
    return parts


def card_of(recipe: Recipe, parts: dict[str, list[Row]]) -> dict[str, Any]:
    """What card.json holds."""
    from_test = [parts["test"][i] for i in (0, len(parts["test"]) // 3, 2 * len(parts["test"]) // 3)]
    return {
        "name": recipe.name, "title": recipe.title, "teaches": recipe.teaches, "description": recipe.teaches,
        "metric": recipe.metric,
        "metric_label": METRIC_LABELS[recipe.metric], "mirrors": recipe.mirrors, "licence": "Apache-2.0",
        "rows": {split: len(parts[split]) for split in ("train", "validation", "test")},
        "probes": [question(row) for row in from_test],
        "examples": [{"prompt": question(row), "answer": row["messages"][1]["content"]} for row in parts["train"][:3]],
        "seed": SEED, "command": REBUILD,
    }  # fmt: skip


METRIC_LABELS = {
    "contains": "answers right", "label": "labels right", "steps": "problems solved", "pirate": "pirate talk",
    "json": "fields right",
    "slots": "all fields said", "summary": "good summaries", "translation": "sentences right",
}  # fmt: skip


def write_rows(path: Path, rows: list[Row]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_dataset(recipe: Recipe, world: World, folder: Path) -> dict[str, int]:
    """Writes a dataset's files; returns the numbers of rows."""
    parts = make_rows(recipe, world)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for split, rows in parts.items():
        write_rows(folder / f"{split}.jsonl", rows)
    card = card_of(recipe, parts)
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {split: len(rows) for split, rows in parts.items()}


def write_base_skills(world: World, folder: Path) -> None:
    """The held-out probes of the base's skills, and chats in which it uses each skill equally often (of a seed that it
    was not trained on) without those that ask a probe's question; one that is answered from what was said before does
    not count."""
    folder.mkdir(parents=True, exist_ok=True)
    tested = probes(world, REHEARSAL_SEED, PROBES_EACH)
    write_rows(folder / "test.jsonl", tested)
    asked = {questions[0] for row in tested if len(questions := _questions(row["messages"])) == 1}
    rows = [
        {"messages": messages, "meta": {"skill": skill.__name__}}
        for skill, _ in MIXTURE
        for messages in skill_chats(skill, world, f"rehearsal-{REHEARSAL_SEED}-{skill.__name__}", REHEARSAL_EACH, asked)
    ]
    write_rows(folder / "rehearsal.jsonl", rows)


def skill_chats(skill: Skill, world: World, seed: str, wanted: int, left_out: AbstractSet[str]) -> list[Messages]:
    """Chats of one skill, no two with the same questions, none with a question that is to be left out; fewer than
    wanted where the skill has no more."""
    rng, found = random.Random(seed), dict[str, Messages]()
    for _ in range(20 * wanted):
        turns = [(casual(rng, user), answer) for user, answer in skill(rng, world, False).turns]
        messages = to_messages(turns)
        if left_out.isdisjoint(questions := _questions(messages)):
            found.setdefault(str(questions), messages)
        if len(found) == wanted:
            break
    return list(found.values())


def _questions(messages: Messages) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def main() -> None:
    """Writes all datasets, or those named."""
    parser = argparse.ArgumentParser(description="Write the fine-tuning datasets.")
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    args = parser.parse_args()
    world = build_world()
    for recipe in RECIPES:
        if not args.names or recipe.name in args.names:
            print(recipe.name, write_dataset(recipe, world, args.out / recipe.name))
    if not args.names:
        write_base_skills(world, args.out / BASE_SKILLS)
    if args.out == SHIPPED:
        write_manifest()


if __name__ == "__main__":
    main()
