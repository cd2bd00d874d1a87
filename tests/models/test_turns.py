"""Compiled threads that work together come to the same bits as one, and wait for nobody who is not there."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_playground.models.decoding import Decoder, Row, RowUpdate
from lora_playground.models.fused import SPELL, Matrices, Pace, prepare
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


@pytest.fixture
def held(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Matrices:
    """Two threads share the decoder's tokens, whether that pays or not."""
    assert decoder.lean is not None and decoder.lean.fused is not None
    monkeypatch.setattr(decoder.lean.fused, "threads", 2)
    monkeypatch.setattr(decoder.lean.fused, "pace", Pace())
    monkeypatch.setattr(Pace, "took", lambda self, seconds, single: None)
    return decoder.lean.fused


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
def test_so_many_threads_give_the_bits_of_one(
    decoder: Decoder, held: Matrices, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = [None, adapter(decoder, 3), RowUpdate(adapter(decoder, 6).adapter, 0.7)]
    held.threads = 1
    alone = logits(decoder, updates)
    held.threads = threads
    monkeypatch.setattr("lora_playground.models.fused.PATIENCE", 50_000_000)
    for _ in range(20):
        seen: list[int] = []
        for one, other in zip(alone, logits(decoder, updates, seen), strict=True):
            assert torch.equal(one, other)
        if max(seen) == threads:
            return
    pytest.fail("the threads never worked together")


def test_where_threads_wait_for_each_other_one_goes_on_alone() -> None:
    """After a token that took longer with help, one thread reads some alone: the more the longer that token took, and
    the more often in turn it happened."""
    pace = Pace()
    pace.took(0.9, single=1.0)
    assert pace.alone == 0
    spells = []
    for _ in range(8):
        pace.took(1.1, single=1.0)
        spells.append(pace.alone)
    assert spells == [4, 8, 16, 32, 64, 128, 256, 256]
    for _ in range(10):
        pace.took(0.9, single=1.0)
    pace.took(1.1, single=1.0)
    assert pace.alone == SPELL[0]
    pace.took(30.0, single=1.0)
    assert pace.alone == 120
    pace.took(1000.0, single=1.0)
    assert pace.alone == SPELL[1]


def test_help_is_asked_where_it_pays(decoder: Decoder, held: Matrices, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token tells how long one takes alone; those of a spell are read alone, and the next with help."""
    batch = decoder.batch()
    batch.add([Row(PROMPTS[0], None), Row(PROMPTS[1], None)])
    asked: list[int] = []
    told: list[tuple[float, float]] = []
    with decoder.evaluating():
        batch.step()
        monkeypatch.setattr(Pace, "took", lambda self, seconds, single: told.append((seconds, single)))
        lead, step = batch._step.lead, batch._step

        def count(states: Any, hold: int, given: Any) -> int:
            asked.append(len(states))
            lead(states[:1], 0, given)
            return len(states)

        monkeypatch.setattr(step, "lead", count)
        batch.step()
        batch.step()
        held.pace.alone = 3
        for _ in range(4):
            batch.step()
    assert asked == [1, 2, 1, 1, 1, 2]
    assert len(told) == 2 and all(seconds > 0 and single > 0 for seconds, single in told)


def test_an_error_in_a_helper_reaches_the_caller(
    decoder: Decoder, held: Matrices, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_nothing_is_compiled_anew_while_tokens_are_read(decoder: Decoder, held: Matrices) -> None:
    kernel = pytest.importorskip("lora_playground.models.kernel")
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
