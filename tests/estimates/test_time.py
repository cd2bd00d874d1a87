"""How long a run will take: from results of runs as files, with no run and no clock."""

from pathlib import Path
from typing import Any

import pytest

from lora_playground.config import RunConfig
from lora_playground.estimates import time as module
from lora_playground.estimates.time import estimate_time, estimate_times, flops_per_token
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json

SMALL, LARGE = "HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"
SECONDS = {"starting": 0.5, "loading": 1.5, "training": 28.0, "saving": 0.5, "evaluating": 6.0}


def config(**sections: Any) -> RunConfig:
    training = {"steps": 60, "batch_tokens": 512} | sections.pop("training", {})
    return RunConfig.parse({"training": training, **sections})


def finished(store: RunStore, sections: dict[str, Any] | None = None, **result: Any) -> None:
    """A run of 60 steps of 500 of 512 tokens at 1,500 tokens a second: 20 s of steps, 7 at both ends, 8.5 s beside."""
    run = store.create(config(**(sections or {})))
    made = {
        "state": "done", "attempt": 1, "seconds": SECONDS, "steps": 60, "tokens": 30_000, "tokens_per_second": 1500.0,
        "total_parameters": 6_213_376, "trainable_parameters": 261_632,
    }  # fmt: skip
    write_json(run.result_path, made | result)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setattr(module, "_processor_flops", lambda: 200e9)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return RunStore(tmp_path)


def test_the_same_run_again_takes_what_it_took_with_everything_beside_the_steps(store: RunStore) -> None:
    finished(store)
    found = estimate_time(store, config())
    assert found is not None and (found.source, found.runs, found.steps) == ("runs", 1, (60, 60))
    whole = sum(SECONDS.values())
    # One sample is worth a quarter on both sides; the 36.5 s hold start, validation, spectra and scoring.
    assert found.seconds == pytest.approx((whole / 1.25, whole * 1.25), rel=1e-6)


def test_twice_the_steps_are_twice_the_time_of_the_steps_only(store: RunStore) -> None:
    finished(store)
    once, twice = estimate_times(store, [config(), config(training={"steps": 120})])
    assert once is not None and twice is not None
    more = (twice.seconds[1] - once.seconds[1]) / 1.25
    assert more == pytest.approx(1.05 * 20, rel=1e-6)
    larger = estimate_time(store, config(training={"steps": 60, "batch_tokens": 1024}))
    assert larger is not None and larger.seconds == pytest.approx(twice.seconds, rel=1e-6)


def test_runs_that_differ_make_a_range_and_the_newest_count(store: RunStore) -> None:
    for number in range(7):  # the two oldest, at a tenth of the speed, no longer count
        slow = {"tokens_per_second": 150.0, "seconds": SECONDS | {"training": 210.0}} if number < 2 else {}
        quick = {"tokens_per_second": 3000.0, "seconds": SECONDS | {"training": 18.0}} if number == 6 else {}
        finished(store, **slow, **quick)
    found = estimate_time(store, config())
    assert found is not None and found.runs == 5
    assert found.seconds == pytest.approx((26.5 / 1.05, 36.5 * 1.05), rel=1e-6)


def test_short_runs_count_only_where_there_are_no_others(store: RunStore) -> None:
    finished(store, {"training": {"steps": 2}}, steps=2, tokens=1000, tokens_per_second=100.0)
    alone = estimate_time(store, config())
    finished(store)
    beside = estimate_time(store, config())
    assert alone is not None and beside is not None
    assert alone.seconds[0] > 200 and beside.runs == 1 and beside.seconds[1] < 60


@pytest.mark.parametrize(
    "result",
    [
        {"state": "failed"},
        {"attempt": 2},
        {"device": "cuda"},
        {"tokens_per_second": 0},
        {"tokens": None},
        {"seconds": {"loading": 1.0}},
        {"seconds": None},
        {"steps": "many"},
    ],
)
def test_what_says_nothing_of_a_whole_run_here_does_not_count(store: RunStore, result: dict[str, Any]) -> None:
    finished(store, **result)
    found = estimate_time(store, config())
    assert found is not None and found.source == "processor"


def test_another_rank_and_another_method_are_taken_to_the_same_arithmetic(store: RunStore) -> None:
    finished(store)
    narrow, wide, full = estimate_times(
        store,
        [config(), config(variant={"name": "lora", "rank": 64}), config(variant={"name": "full"})],
    )
    assert narrow is not None and wide is not None and full is not None
    assert wide.source == "runs" and narrow.seconds[1] < wide.seconds[1] < 1.5 * narrow.seconds[1]
    assert full.source == "method" and full.seconds[1] > 1.9 * narrow.seconds[1]
    # Forward, back, and the products of what is trained: 6 a weight where all are trained, 4 and 6 an adapter's weight.
    whole = flops_per_token(config(variant={"name": "full"}), {"total_parameters": 100, "trainable_parameters": 100})
    assert whole == 600 and flops_per_token(config(), {"total_parameters": 100, "trainable_parameters": 10}) == 460
    checked = config(training={"gradient_checkpointing": True})
    assert flops_per_token(checked, {"total_parameters": 100, "trainable_parameters": 10}) == 660


def test_another_model_is_reckoned_from_its_size_and_a_processor_without_runs_from_a_product(store: RunStore) -> None:
    guess = estimate_time(store, config(model={"source": SMALL}))
    assert guess is not None and (guess.source, guess.runs) == ("processor", 0)
    least = 60 * 512 * 4 * 134.5e6 / (0.4 * 200e9)  # steps alone, at the best share that was seen
    assert guess.seconds[0] > least and guess.seconds[1] > 4 * guess.seconds[0]
    finished(store)
    small, large = estimate_times(store, [config(model={"source": SMALL}), config(model={"source": LARGE})])
    assert small is not None and large is not None and small.source == large.source == "model"
    assert 8 < large.seconds[1] / small.seconds[1] < 14  # 1,711 to 134.5 million, and 6 times what is trained
    quantised = estimate_time(store, config(model={"source": "embedded", "quantisation": "4bit"}))
    assert quantised is not None and quantised.source == "model"


def test_on_a_gpu_only_runs_on_one_count(store: RunStore) -> None:
    finished(store, device="cpu")
    assert estimate_time(store, config(), gpu=True) is None
    finished(store, device="cuda")
    found = estimate_time(store, config(), gpu=True)
    assert found is not None and (found.source, found.runs) == ("runs", 1)


def test_unknown_sizes_and_federated_runs_have_none(store: RunStore) -> None:
    assert estimate_time(store, config(model={"source": "nobody/nothing"})) is None
    finished(store, {"federated": {}})
    assert estimate_time(store, config(federated={})) is None
    found = estimate_time(store, config())
    assert found is not None and found.source == "processor"


def test_a_time_budget_foresees_steps_and_adds_start_and_scoring(store: RunStore) -> None:
    finished(store)
    found = estimate_time(store, config(training={"seconds": 28}))
    assert found is not None
    assert found.seconds == pytest.approx((28 + 8.5 / 1.25, 28 + 8.5 * 1.25), rel=1e-6)
    assert found.steps[0] < 60 < found.steps[1] and found.steps == (48, 75)


def test_validation_that_was_asked_for_costs_time(store: RunStore) -> None:
    finished(store)
    seldom, often = estimate_times(store, [config(), config(training={"steps": 60, "validate_every": 5})])
    assert seldom is not None and often is not None
    assert often.seconds[0] - seldom.seconds[0] > 3
