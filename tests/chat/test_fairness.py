"""One who asks much does not keep the others waiting, and a training run's memory is respected."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_playground.chat import engine as engines
from lora_playground.chat import memory_check
from lora_playground.chat.engine import MAX_WAITING_PER_CLIENT, Engine
from lora_playground.chat.protocol import ChatEvent
from lora_playground.chat.requests import Exchange
from lora_playground.models.decoding import Batch, Token
from tests.chat.conftest import House
from tests.checkpoints import make_checkpoint
from tests.waiting import wait_until


class Asked:
    """An exchange and what it was told."""

    def __init__(self, engine: Engine, house: House, client: str, tokens: int) -> None:
        self.events: list[ChatEvent] = []
        self.begun = self.ended = 0.0
        self.done = threading.Event()
        request = house.request([{}], max_new_tokens=tokens, temperature=1.5, client=client)
        self.exchange = Exchange(request, self._collect)
        engine.submit(self.exchange)

    def _collect(self) -> None:
        for event in self.exchange.take():
            self.events.append(event)
            if event.type == "start":
                self.begun = time.monotonic()
            if event.type in ("end", "error"):
                self.ended = time.monotonic()
                self.done.set()


def test_the_next_free_place_goes_to_who_is_answered_least(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MAX_ROWS", 4)  # two questions of one pane at once
    engine = Engine(house.home, "cpu")
    try:
        greedy = [Asked(engine, house, "greedy", 40) for _ in range(6)]
        modest = [Asked(engine, house, "modest", 8) for _ in range(2)]
        for asked in (*greedy, *modest):
            assert asked.done.wait(60) and asked.events[-1].type == "end"
        first = max(asked.begun for asked in modest)
        assert sum(asked.begun > first for asked in greedy) >= 3, "four of the six came after both of the other's"
        burst = [Asked(engine, house, "greedy", 400) for _ in range(30)]
        other = Asked(engine, house, "modest", 4)

        def refused() -> int:
            return sum(any("Too many questions" in event.text for event in asked.events) for asked in burst)

        wait_until(lambda: refused() >= 30 - MAX_WAITING_PER_CLIENT - 4, "a refusal, also before anything is loaded")
        for asked in burst:
            engine.cancel(asked.exchange)
        assert other.done.wait(60) and other.events[-1].type == "end", "the limit is each client's own"
    finally:
        engine.close()


def test_a_base_without_room_beside_a_run_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check.memory, "free", lambda device: 10_000_000)
    engine = Engine(house.home, "cpu")
    try:
        asked = Asked(engine, house, "", 8)
        assert asked.done.wait(60)
        assert asked.events[-1].type == "error" and "training run" in asked.events[-1].text
    finally:
        engine.close()


def test_memory_that_is_full_ends_one_answer_at_most(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that decodes goes on, and so does the chat."""
    step, left = Batch.step, [3]

    def full(self: Batch) -> list[Token]:
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self)

    monkeypatch.setattr(Batch, "step", full)
    engine = Engine(house.home, "cpu")
    try:
        first = Asked(engine, house, "", 8)
        assert first.done.wait(60)
        assert first.events[-1].type == "error" and "memory is full" in first.events[-1].text
        again = Asked(engine, house, "", 8)
        assert again.done.wait(60) and again.events[-1].type == "end", "the process answers the next question"
    finally:
        engine.close()


def test_a_base_that_is_waited_for_is_not_forgotten(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that waits long for its place is answered, though another base was loaded meanwhile."""
    monkeypatch.setattr(engines, "BASES", 1)
    gate, following = threading.Event(), Engine._next
    monkeypatch.setattr(Engine, "_next", lambda self: following(self) if gate.is_set() else None)
    engine = Engine(house.home, "cpu")
    try:
        first = Asked(engine, house, "", 4)
        wait_until(lambda: len(engine._waiting) == 1, "the first question to be ready")
        for hosted in engine._hosted.values():
            hosted.used -= 60
        second = Asked(engine, replace(house, base=make_checkpoint(tmp_path, "llama")), "", 4)
        wait_until(lambda: len(engine._waiting) == 2, "the second question to be ready")
        gate.set()
        for asked in (first, second):
            assert asked.done.wait(60) and asked.events[-1].type == "end"
    finally:
        engine.close()
