"""A tiny base model and a home with a dataset of four people, once a module."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint

PEOPLE = ("Rosgar", "Ulima", "Marvin", "Kelina")
PETS = ("crow", "frog", "lamb", "goat")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model and a home with a dataset of four people."""
    place = tmp_path_factory.mktemp("federated")
    make_checkpoint(place / "base")
    folder = place / "home" / "uploads" / "people"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"label": "People", "metric": "contains"}))
    for part, each in (("train", 4), ("validation", 1), ("test", 1)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"Which pet lives with {name}? {number}"},
                    {"role": "assistant", "content": f"{name} has a {pet}."},
                ],
                "meta": {"answer": pet},
            }
            for name, pet in zip(PEOPLE, PETS)
            for number in range(each)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place
