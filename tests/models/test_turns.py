"""Compiled threads that work together come to the same bits as one, and wait for nobody who is not there."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_playground.models.decoding import Decoder, Row, RowUpdate
from lora_playground.models.fused import ALONE, STALLED, Reading, prepare
from tests.checkpoints import make_checkpoint
from tests.models.test_step import adapter

numba = pytest.importorskip("numba")
turns = pytest.importorskip("lora_playground.models.turns")
PROMPTS = ([5, 9, 3], [7, 2, 8, 1, 6, 4, 11], [12])


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("turns"), "llama", seed=5)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * (4.0 if parameter.dim() == 2 else 1.0)).bfloat16())
    made = Decoder(model, AutoTokenizer.from_pretrained(folder), settled=True)
    assert prepare(wait=120) and made.lean is not None and made.lean.fused is not None
    made.lean.way = "fused"
    return made


def logits(decoder: Decoder, updates: list[RowUpdate | None], seen: list[int] | None = None) -> list[torch.Tensor]:
    """Logits of a few steps; `seen` gets how many threads took part in each."""
    found = []
    with decoder.evaluating():
        batch = decoder.batch()
        batch.add([Row(prompt, update, max_new_tokens=40) for prompt, update in zip(PROMPTS, updates, strict=True)])
        while batch.rows:
            found.append(batch.read().clone())
            batch._settle(found[-1])
            reading = batch._buffers.reading
            if seen is not None and reading is not None:
                seen.append(1 + int((reading.states[1:, turns.STATE] == turns.READY).sum()))
    return found


@pytest.mark.parametrize("threads", [2, 3])
def test_so_many_threads_give_the_bits_of_one(decoder: Decoder, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = [None, adapter(decoder, 3), RowUpdate(adapter(decoder, 6).adapter, 0.7)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = logits(decoder, updates)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("lora_playground.models.fused.STALLED", 1 << 40)
    monkeypatch.setattr("lora_playground.models.fused.PATIENCE", 50_000_000)
    for _ in range(20):
        seen: list[int] = []
        for one, other in zip(alone, logits(decoder, updates, seen), strict=True):
            assert torch.equal(one, other)
        if max(seen) == threads:
            return
    pytest.fail("the threads never worked together")


def test_where_threads_wait_for_each_other_one_goes_on_alone(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    kept: list[Reading] = []
    made = Reading.__init__

    def keep(self: Reading, fused: Any, *given: Any) -> None:
        made(self, fused, *given)
        kept.append(self)

    monkeypatch.setattr(Reading, "__init__", keep)
    logits(decoder, [None, None, None])
    reading = kept[-1]
    reading.alone = 0  # on a busy machine it may have stalled already
    monkeypatch.setattr(reading.fused, "lead", lambda states, hold, given: STALLED + len(states))
    reading()
    assert reading.alone == ALONE
    asked = []
    monkeypatch.setattr(reading.fused, "lead", lambda states, hold, given: asked.append(len(states)) or 0)
    for _ in range(ALONE + 1):
        reading()
    assert asked == [1] * ALONE + [2]


def test_an_error_in_a_helper_reaches_the_caller(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("lora_playground.models.fused.STALLED", 1 << 40)
    raised = threading.Event()

    def fail(*given: Any) -> None:
        raised.set()
        raise MemoryError("no room")

    batch = decoder.batch()
    batch.add([Row(PROMPTS[0], None), Row(PROMPTS[1], None)])
    with decoder.evaluating():
        batch.step()
        batch.step()
        reading = batch._buffers.reading
        monkeypatch.setattr(reading.fused, "follow", fail)
        reading.states[1, turns.STATE] = turns.LEFT
        with pytest.raises(MemoryError, match="no room"):
            batch.step()  # calls the helper
            assert raised.wait(60)
            batch.step()


def test_nothing_is_compiled_anew_while_tokens_are_read(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pytest.importorskip("lora_playground.models.kernel")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for updates in ([None, None, None], [None, adapter(decoder, 3), None]):
        logits(decoder, updates)
    assert [len(one.signatures) for one in (kernel.lead, kernel.follow)] == [1, 1]


def test_a_helper_leaves_when_nobody_calls() -> None:
    states = np.full((2, 8), turns.LEFT)
    helper, ended = turns.Helper(), threading.Event()
    errors: list[BaseException] = []

    @numba.njit(nogil=True)
    def waited(states: Any, patience: int) -> bool:
        return turns.waited(states, 1, patience)  # type: ignore[no-any-return]

    def work() -> None:
        assert not waited(states, 1000)
        ended.set()

    waited(states, 0)  # compiled beforehand
    for _ in range(3):
        helper.call(states, 1, work, errors)
        assert ended.wait(60) and states[1, turns.STATE] == turns.LEFT and not helper.awake
        ended.clear()
    helper.call(states, 1, lambda: waited(states, 1 << 50), errors)
    helper.call(other := np.full((2, 8), turns.LEFT), 1, lambda: ended.set(), errors)
    assert ended.wait(60), "it leaves the leader that it followed"
    assert states[1, turns.STATE] == turns.LEFT and other[1, turns.STATE] == turns.CALLED
    assert not errors
