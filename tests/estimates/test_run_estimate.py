"""What a run should need, before it is trained: micro-batches for the memory of a GPU that is pretended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_playground.config import RunConfig
from lora_playground.data.encoding import Example
from lora_playground.data.preparation import Prepared
from lora_playground.estimates.run_estimate import RunEstimate
from lora_playground.runs import Run, RunStore


def made(home: Path, device: str, **training: Any) -> tuple[RunEstimate, Run]:
    """The estimate for a run of the embedded model there, with examples of 64 tokens, half of them learned."""
    config = RunConfig.parse({"training": {"batch_tokens": 16384} | training})
    learned = np.arange(64) >= 32
    examples = [Example(np.arange(64), learned)] * 4
    prepared = Prepared(examples, [], [], 0.0, 0, 0, {})
    return RunEstimate(config, device, "bfloat16", prepared, home), RunStore(home).create(config)


def available(monkeypatch: pytest.MonkeyPatch, bytes_: int) -> None:
    """Half of it is free on the card, half is what torch has reserved and may use again."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (bytes_ // 2, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: bytes_ - bytes_ // 2)


def test_micro_batches_are_doubled_until_the_step_fits_and_the_person_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate, run = made(tmp_path, "cuda")
    assert estimate.memory is not None
    said: list[dict[str, Any]] = []
    available(monkeypatch, 2 * estimate.memory.tensors)
    assert estimate.fitting(run, said.append).accumulation == 1 and not said
    counts = []
    for part in (2, 4, 8):
        available(monkeypatch, estimate.memory.tensors // part)
        counts.append(estimate.fitting(run, said.append).accumulation)
    assert counts[0] >= 2 and counts == sorted(counts) and counts[-1] >= 8
    assert all(count & (count - 1) == 0 for count in counts), "doubled"
    assert said[0]["level"] == "info" and f"takes {counts[0]} micro-batches (training.accumulation)" in said[0]["text"]
    # What the form asked for is where the doubling begins, and nothing but the number of micro-batches changes.
    available(monkeypatch, estimate.memory.tensors // 4)
    thirds, other = made(tmp_path, "cuda", accumulation=3)
    fitted = thirds.fitting(other, said.append)
    assert fitted.accumulation % 3 == 0 and fitted.batch_tokens == 16384


def test_a_resumed_run_keeps_its_number_and_a_processor_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate, run = made(tmp_path, "cuda")
    assert estimate.memory is not None
    available(monkeypatch, estimate.memory.tensors // 8)
    run.append({"type": "plan", "steps": 10, "recipe": {"accumulation": 2}})
    assert estimate.fitting(run, [].append).accumulation == 2
    on_cpu, other = made(tmp_path, "cpu", accumulation=5)
    assert on_cpu.fitting(other, [].append).accumulation == 5


def test_what_it_tells_a_result(tmp_path: Path) -> None:
    estimate, _ = made(tmp_path, "cpu")
    assert estimate.memory is not None and estimate.time is not None
    told = estimate.result_fields(attempt=1)
    assert told["device"] == "cpu" and told["estimated_memory_bytes"] == estimate.memory.tensors
    assert estimate.time.source == "processor" and "forecast_seconds" not in told, "a guess is not laid beside"
    estimate.time = replace(estimate.time, source="runs", seconds=(12.04, 15.0))
    assert estimate.result_fields(attempt=1)["forecast_seconds"] == [12.0, 15.0]
    assert "forecast_seconds" not in estimate.result_fields(attempt=2)
