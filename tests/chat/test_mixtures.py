"""Panes that answer with a mixture of runs or with one direction, and readings, through a real chat process."""

import asyncio
from typing import Any

import pytest

from lora_playground.analysis.directions import alone, without
from lora_playground.analysis.merging import Mixture, Recipe
from lora_playground.analysis.update import load_updates
from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import Reading
from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore
from tests.chat.conftest import QUESTION, House, answers

MODULE = "model.layers.0.mlp.down_proj"


def test_mixtures_and_directions_answer_as_decoded_here(house: House, client: ChatClient) -> None:
    store = RunStore(house.home)
    adapters = [load_updates(store.get(house.runs[name]).update_path) for name in ("low", "high")]
    runs = [{"run": house.runs["low"], "weight": 0.8}, {"run": house.runs["high"], "weight": -1.5}]
    panes: list[dict[str, Any]] = [
        {},
        {"mixture": {"runs": runs}},
        {"mixture": {"runs": runs, "method": "core_ties", "density": 0.4}, "strength": 2.0},
        {"run": house.runs["high"], "direction": {"module": MODULE, "index": 2}, "strength": 2.0},
        {"run": house.runs["high"], "direction": {"module": MODULE, "index": 1, "keep": "without"}},
        {"run": house.runs["low"], "strength": -2.0},
    ]
    found = answers(list(client.ask(house.request(panes))))
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    made = [
        None,
        (Mixture(adapters, Recipe("sum")).updates([0.8, -1.5]), 1.0),
        (Mixture(adapters, Recipe("core_ties", 0.4)).updates([0.8, -1.5]), 2.0),
        (alone(adapters[1], MODULE, 2), 2.0),
        (without(adapters[1], MODULE, 1), 1.0),
        (adapters[0], -2.0),
    ]
    rows = [one and RowUpdate(decoder.adapter(one[0]), one[1]) for one in made]
    expected = decoder.generate([[{"role": "user", "content": QUESTION}]] * len(rows), rows, max_new_tokens=16)
    assert [found[i] for i in range(len(rows))] == expected
    assert len(set(expected)) >= 4


def test_readings_come_between_answers(house: House, client: ChatClient) -> None:
    reading = Reading.parse({"run": house.runs["high"], "module": MODULE, "index": 3, "prompt": QUESTION})
    found = asyncio.run(client.read(reading))
    assert found["of"] == 6 and len(found["reads"]) == len(found["tokens"]) and found["says"]["raised"]
    with pytest.raises(ChatError, match="there is no update of"):
        asyncio.run(client.read(reading.model_copy(update={"module": "nowhere"})))
    with pytest.raises(ChatError, match="nothing to chat with"):
        asyncio.run(client.read(reading.model_copy(update={"run": house.runs["empty"]})))
