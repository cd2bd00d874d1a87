"""A home with a tiny base and runs whose updates are known, and one chat process for all tests of a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lora_playground.analysis.update import Update, save_updates
from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import ChatEvent, ChatRequest
from lora_playground.config import RunConfig
from lora_playground.runs import RunStore
from tests.checkpoints import make_checkpoint

QUESTION = "What is the name of your dog?"


@dataclass
class House:
    """A home, its base folder, and runs by name."""

    home: Path
    base: Path
    runs: dict[str, str]

    def request(
        self, panes: list[dict[str, Any]], text: str = "What is the name of your dog?", **more: Any
    ) -> ChatRequest:
        messages = more.pop("messages", [[{"role": "user", "content": text}]])
        base = {"source": str(self.base)}
        return ChatRequest.parse({"base": base, "panes": panes, "messages": messages, "max_new_tokens": 16, **more})


def projections(base: Path) -> dict[str, tuple[int, int]]:
    """(out, in) of the base's linear modules, from its file."""
    tensors = load_file(str(base / "model.safetensors"))
    return {name.removesuffix(".weight"): array.shape for name, array in tensors.items() if "proj" in name}


def make_house(folder: Path) -> House:
    """Runs: low (rank 2), high (rank 6), dense, zero (nothing learnt), and empty (not trained yet)."""
    base = make_checkpoint(folder / "base", "llama", seed=1)
    tensors = load_file(str(base / "model.safetensors"))
    # A random model of this size hardly reacts to what it reads unless its weights are larger.
    save_file(
        {k: v * (4 if v.ndim == 2 else 1) for k, v in tensors.items()},
        str(base / "model.safetensors"),
        {"format": "pt"},
    )
    store, noise, runs = RunStore(folder / "home"), np.random.default_rng(0), {}
    shapes = projections(base)

    def factors(rank: int, size: float) -> list[Update]:
        return [
            Update(name, B=noise.normal(0, size, (out, rank)), A=noise.normal(0, size, (rank, inn)))
            for name, (out, inn) in shapes.items()
        ]

    contents = {
        "low": factors(2, 0.3),
        "high": factors(6, 0.2),
        "dense": [Update(u.name, dense=u.matrix()) for u in factors(3, 0.3)],
        "zero": [Update(u.name, B=np.zeros_like(u.B), A=u.A) for u in factors(4, 0.3)],
        "empty": [],
    }
    for name, updates in contents.items():
        run = store.create(RunConfig.parse({"title": name, "model": {"source": str(base)}}))
        if updates:
            save_updates(updates, run.update_path)
        runs[name] = run.id
    return House(store.home, base, runs)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[ChatClient]:
    with ChatClient(house.home, device="cpu") as client:
        yield client


def answers(events: list[ChatEvent]) -> dict[int, str]:
    """The whole answer of each pane."""
    return {event.pane: event.end.text for event in events if event.end is not None and event.pane is not None}
