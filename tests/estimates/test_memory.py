"""What a run will cost: by counting, by measuring, and in what it advises."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lora_playground.config import RunConfig
from lora_playground.estimates.memory import Conditions, advice, estimate_memory, micro_batches
from lora_playground.models.catalogue import EMBEDDED, list_models, module_shapes, parameter_count, sizes_of
from lora_playground.models.model_shape import model_shape
from tests.checkpoints import KINDS, make_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import memory_estimate

from tests.waiting import wait_until

GPU = Conditions("cuda", "bfloat16")


def config(**sections: Any) -> RunConfig:
    return RunConfig.parse({"variant": {"name": "lora", "rank": 8}, **sections})


def test_declared_sizes_give_the_known_numbers_of_parameters() -> None:
    listed = [card for card in list_models() if card.source != "embedded"]
    assert len(listed) >= 12
    for card in listed:
        sizes = sizes_of(card.source)
        assert sizes is not None
        assert abs(sizes.parameters / card.parameters - 1) < 0.005, card.source


@pytest.mark.parametrize("kind", KINDS)
def test_the_declared_shape_agrees_with_the_files(tmp_path: Path, kind: str) -> None:
    import json

    folder = make_checkpoint(tmp_path, kind)
    found = model_shape(json.loads((folder / "config.json").read_text()))
    assert [tuple(module) for module in module_shapes(folder)] == found.modules()
    # Biases are left out: in a model of 32 columns they weigh more than in any that is used (Phi has most of them).
    assert abs(found.parameters / parameter_count(folder) - 1) < 0.05


def test_parameters_and_adapter() -> None:
    found = estimate_memory(config())
    assert found is not None
    assert found.trainable == sum(8 * (out + into) for _, out, into in module_shapes(EMBEDDED))
    assert found.parameters == parameter_count(EMBEDDED)
    assert found.adapter_bytes == 4 * found.trainable
    assert found.tensors <= sum(found.causes.values()) - found.causes["runtime"]


def test_what_the_process_holds_is_a_range_in_which_the_measured_runs_lie() -> None:
    """The process's measured peaks of docs/benchmarks.md: runs of the embedded model, and one of 135 million."""
    found = estimate_memory(config())
    assert found is not None and found.least < found.most
    assert found.overhead[0] <= 711e6 and found.overhead[1] >= 1011e6
    larger = estimate_memory(config(model={"source": "HuggingFaceTB/SmolLM2-135M-Instruct"}))
    assert larger is not None and larger.overhead[0] <= 2878e6 - 1460e6 <= larger.overhead[1]
    here = estimate_memory(config(), overhead=(7, 9))
    assert here is not None and (here.least, here.most) == (here.tensors + 7, here.tensors + 9)


def test_it_follows_the_sliders() -> None:
    def total(**sections: Any) -> int:
        found = estimate_memory(config(**sections), GPU)
        assert found is not None
        return found.tensors

    base = {"source": "Qwen/Qwen3-8B"}
    plain = total(model=base)
    assert 16e9 < plain < 22e9  # 8.2 billion parameters of two bytes, and some
    assert total(model=base | {"quantisation": "4bit"}) < 0.55 * plain
    assert total(model=base, variant={"name": "lora", "rank": 64}) > plain
    wide = {"batch_tokens": 8192}
    assert total(model=base, training=wide) > 1.3 * plain
    assert total(model=base, training=wide | {"gradient_checkpointing": True}) < 0.6 * total(model=base, training=wide)
    assert total(model=base, training=wide | {"accumulation": 8}) < 0.6 * total(model=base, training=wide)


def test_unknown_model_costs_nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert estimate_memory(config(model={"source": "nobody/nothing"})) is None


def test_advice_is_what_helps_most() -> None:
    given = config(model={"source": "Qwen/Qwen3-8B"}, training={"batch_tokens": 16384}, data={"max_length": 1024})
    found = estimate_memory(given, GPU)
    assert found is not None
    said = advice(given, found, GPU)
    assert 1 <= len(said) <= 3 and "gradient_checkpointing" in said[0]
    small = config(training={"batch_tokens": 32, "gradient_checkpointing": True}, model={"quantisation": "4bit"},
                   data={"max_length": 32})  # fmt: skip
    least = estimate_memory(small)
    assert least is not None and advice(small, least) == ["choose a smaller base model"]


def test_micro_batches_fit_the_memory() -> None:
    given = config(model={"source": "Qwen/Qwen3-0.6B"}, training={"batch_tokens": 16384})
    whole = estimate_memory(given, GPU)
    assert whole is not None
    assert micro_batches(given, 2 * whole.tensors, GPU) == 1
    available = whole.tensors // 3
    micro = micro_batches(given, available, GPU)
    part = given.training.model_copy(update={"accumulation": micro})
    fitted = estimate_memory(given.model_copy(update={"training": part}), GPU)
    assert micro > 1 and fitted is not None and fitted.tensors <= 0.9 * available
    assert micro_batches(given, 1000, GPU) == 1  # nothing helps: as asked


@pytest.mark.parametrize(
    "word",
    [
        "narrow lora 8 512", "wide lora 8 512 128 4", "gpt2 lora", "wide full 8 1024", "slim lorafa 48 1536",
    ],
)  # fmt: skip
def test_estimate_is_within_15_percent_of_the_tensors(word: str, tmp_path: Path) -> None:
    listed = [*memory_estimate.GRID, *memory_estimate.UNSEEN]
    point = next(point for point in listed if memory_estimate.label(point).startswith(word))
    assert 0.85 <= memory_estimate.compare(point, tmp_path)["ratio"] <= 1.15


def test_a_step_is_measured_as_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lora_playground.training import memory
    from lora_playground.training.memory import TensorMeter

    in_use = memory._in_use()
    if in_use is None:
        pytest.skip("no glibc here")
    asked: list[int] = []
    monkeypatch.setattr(memory, "_in_use", lambda: lambda: (asked.append(in_use()), asked[-1])[1])

    model = torch.nn.Linear(1000, 1000)
    optimiser = torch.optim.AdamW(model.parameters())
    meter = TensorMeter()
    with meter.measuring(model, optimiser, torch.device("cpu")):
        large = torch.ones(20_000_000)
        wait_until(lambda: max(asked) >= asked[0] + 80_000_000, "a look at the memory while the tensor is there")
        del large
        torch.ones(1000)
    assert meter.bytes is not None and 84_000_000 <= meter.bytes <= 90_000_000


def test_a_thread_whose_memory_is_not_counted_measures_nothing() -> None:
    import threading

    import torch

    from lora_playground.training.memory import TensorMeter

    model, meter = torch.nn.Linear(10, 10), TensorMeter()

    def step() -> None:
        with meter.measuring(model, torch.optim.AdamW(model.parameters()), torch.device("cpu")):
            torch.ones(1000)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert meter.bytes is None


def test_on_cuda_a_step_is_what_lasts_and_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the card's allocator: its libraries' own memory (50) and an earlier peak (900) count as no
    tensors of the step, but the earlier peak stays the run's."""
    import torch

    from lora_playground.training import memory

    peaks = [900, 650]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 450)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.pop(0))
    monkeypatch.setattr(memory, "held_bytes", lambda model, optimiser, device: 400)
    model, meter = torch.nn.Linear(2, 2), memory.TensorMeter()
    with meter.measuring(model, torch.optim.AdamW(model.parameters()), torch.device("cuda")):
        pass
    assert meter.bytes == 600 and meter.earlier == 900


@pytest.mark.skipif(not os.environ.get("LORA_PLAYGROUND_SLOW"), reason="takes a minute and 3 GB; benchmarks run it too")
def test_a_model_of_135_million_trains_in_4_gib() -> None:
    import small_machine

    found = small_machine.measure()
    assert found["parameters"] > 130_000_000 and found["peak_bytes"] < 4 * 2**30
