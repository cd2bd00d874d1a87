"""A run from config to result on a tiny model: what it leaves, resuming, stopping, NaN, every write failing once."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_playground.analysis.update import load_updates
from lora_playground.config import ModelConfig
from lora_playground.errors import PlaygroundError, RunError
from lora_playground.jobs.failures import Held, Stopped
from lora_playground.jobs.pipeline import execute
from lora_playground.models.catalogue import parameter_count
from lora_playground.runs import Run
from lora_playground.variants import get_variant
from tests.faults import FaultyOs
from tests.jobs.support import STEPS, never, new_run


def losses_of(run: Run) -> list[float]:
    return [loss for event in run.history() if event["type"] == "loss" for loss in event["losses"]]


def test_it_leaves_what_a_run_folder_holds(finished: Run) -> None:
    result = finished.result()
    assert result is not None and finished.state() == "done" and finished.error() is None
    assert set(result) >= set(
        "state seconds steps tokens tokens_per_second final_loss validation_loss trainable_parameters "
        "total_parameters adapter_bytes peak_memory_bytes score forgetting changed samples".split()
    )
    assert set(result["seconds"]) == {"starting", "loading", "training", "saving", "evaluating"}
    assert result["device"] == "cpu" and "forecast_seconds" not in result, "nothing ran here before"
    assert result["steps"] == STEPS and len(losses_of(finished)) == STEPS
    assert result["score"]["metric"] == "contains" and result["score"]["n"] == 4 and result["forgetting"] is None
    assert result["changed"]["of"] == 4 and result["changed"]["n"] == sum(
        s["base"].strip() != s["adapted"].strip() for s in result["samples"]
    )
    assert {"prompt", "expected", "base", "adapted", "base_score", "adapted_score"} == set(result["samples"][0])
    assert result["validation_loss"]["adapted"] < result["validation_loss"]["base"]
    assert result["peak_memory_bytes"] > 10_000_000
    assert not list(finished.folder.glob("*.tmp")) and not finished.checkpoints.exists()


def test_events_tell_the_story(finished: Run) -> None:
    events, _ = finished.events()
    phases = [event["phase"] for event in events if event["type"] == "phase"]
    assert phases == ["loading", "training", "saving", "evaluating"]
    kinds = {event["type"] for event in events}
    assert {"plan", "loss", "validation", "spectra", "probe", "checkpoint"} <= kinds
    probes = [event for event in events if event["type"] == "probe"]
    assert probes[0]["step"] == 0 and len(probes[0]["answers"]) == 2
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)


def test_stock_peft_loads_the_adapter_and_it_is_the_update(finished: Run, place: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        pristine = {name: p.clone() for name, p in base.named_parameters()}
        adapted = PeftModel.from_pretrained(base, str(finished.adapter)).eval()(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
        before = plain(ids).logits
        for update in load_updates(finished.update_path):
            weight = plain.get_submodule(update.name).weight
            assert torch.equal(weight, pristine[f"{update.name}.weight"])
            weight += torch.from_numpy(update.matrix()).float()
        merged = plain(ids).logits
    assert not torch.allclose(before, merged, atol=1e-4)
    torch.testing.assert_close(adapted, merged, atol=1e-5, rtol=1e-4)


def test_adapter_bytes_and_parameters_are_counted(finished: Run, place: Path) -> None:
    result = finished.result()
    assert result is not None
    files = [path for path in finished.adapter.rglob("*") if path.is_file()]
    assert result["adapter_bytes"] == sum(path.stat().st_size for path in files)
    shapes = [update.shape for update in load_updates(finished.update_path)]
    assert result["trainable_parameters"] == get_variant("lora").count(shapes, finished.config().variant)  # type: ignore[arg-type]
    # The share that form and result show is that of the base, without what the variant adds.
    assert result["total_parameters"] == parameter_count(place / "base")


def test_full_fine_tuning_takes_the_same_way(place: Path) -> None:
    run = new_run(place, "full", steps=2)
    assert execute(run, never)["steps"] == 2
    assert any(update.dense is not None for update in load_updates(run.update_path))


def test_stop_then_resume_is_as_if_it_had_never_stopped(place: Path, finished: Run) -> None:
    run = new_run(place)

    def stop_at_3() -> bool:
        return len(losses_of(run)) >= 3 or any(
            event["type"] == "checkpoint" and event["step"] >= 2 for event in run.events()[0]
        )

    with pytest.raises(Stopped, match="after step"):
        execute(run, stop_at_3)
    assert run.state() == "cancelled" and not run.adapter.exists()
    result = execute(run, never)
    assert result["attempt"] == 2 and run.state() == "done"
    np.testing.assert_allclose(losses_of(run), losses_of(finished), rtol=1e-5)
    for one, other in zip(load_updates(run.update_path), load_updates(finished.update_path), strict=True):
        np.testing.assert_allclose(one.matrix(), other.matrix(), atol=1e-6)


def test_a_held_run_waits_with_its_validation_loss_and_goes_on_as_if_it_had_never_waited(
    place: Path, finished: Run
) -> None:
    run = new_run(place)
    for step in (2, 4):
        run.hold(step, watched=False)
        with pytest.raises(Held, match=f"after step {step} of {STEPS}"):
            execute(run, never)
        error = run.error()
        assert error is not None and error["code"] == "held" and run.result() is None
        assert run.progress().validation[-1][0] == step == run.progress().step
    run.hold(None, watched=False)
    execute(run, never)
    assert losses_of(run) == losses_of(finished)
    kinds = [{event["type"] for event in one.history()} for one in (run, finished)]
    assert kinds[1] - kinds[0] == {"probe"}, "nobody watches it, so that it is not asked while it learns"
    result = run.result()
    learned = next(event for event in finished.history() if event["type"] == "plan")["rows"]["train"]
    assert result is not None and result["state"] == "done"
    assert result["target_tokens"] >= 2 * learned, "each answer and its end"


def test_nan_is_told_with_its_step_and_nothing_is_saved(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = type(get_variant("lora"))

    def poison(self: Any, model: Any, step: int) -> None:
        if step == 3:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.fill_(float("nan"))

    monkeypatch.setattr(variant, "after_step", poison)
    run = new_run(place)
    with pytest.raises(PlaygroundError):
        execute(run, never)
    error = run.error()
    assert error is not None and error["code"] == "nan" and "step 4" in error["message"]
    assert not run.adapter.exists() and not run.update_path.exists() and run.state() == "failed"


CUDA_FULL = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.25 GiB is "
    "free. Including non-PyTorch memory, this process has 22.38 GiB memory in use. Of the allocated memory 21.50 GiB "
    "is allocated by PyTorch, and 412.00 MiB is reserved by PyTorch but unallocated.\nmore"
)


def test_a_full_card_ends_the_run_with_need_have_and_the_three_most_useful_changes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is pretended from the moment at which it is full: the error is torch's own, in the third step."""
    import torch

    from lora_playground.training.loss import PackedLoss

    steps: list[int] = []
    compute = PackedLoss.loss_sum

    def full(self: Any, *given: Any) -> Any:
        if len(steps) < 3:
            return compute(self, *given)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(1.25 * 2**30), int(23.64 * 2**30)))
        raise torch.OutOfMemoryError(CUDA_FULL)

    variant = type(get_variant("lora"))
    monkeypatch.setattr(variant, "after_step", lambda self, model, step: steps.append(step))
    monkeypatch.setattr(PackedLoss, "loss_sum", full)
    run = new_run(place, batch_tokens=4096, checkpoint_every=None)
    with pytest.raises(PlaygroundError) as caught:
        execute(run, never)
    monkeypatch.undo()
    assert str(caught.value) == (
        "The memory is full: CUDA out of memory. Tried to allocate 20.00 GiB. The device has 23.6 GiB, of which 1.2 "
        "are free now. Try one of these: lower training.batch_tokens to 1024; raise training.accumulation to 4; "
        "turn on training.gradient_checkpointing."
    )
    error = run.error()
    assert error is not None and (error["code"], error["message"]) == ("oom", str(caught.value))
    assert run.state() == "failed" and not run.adapter.exists()
    # The process goes on: the same run is executed again once there is room, which is what Resume does.
    assert execute(run, never)["state"] == "done"


@pytest.mark.parametrize("variant", ["lora", "pissa", "full"])
def test_the_trained_model_is_gone_before_another_is_loaded_for_scoring(
    place: Path, finished: Run, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    # `finished` has imported everything: pytest keeps log records of failed imports, and with them the frames of a run.
    from lora_playground.jobs import execution

    load, loaded = execution.load_pristine, []

    def watched(*arguments: Any) -> Any:
        assert not [name for weak, name in loaded if weak() is not None], "memory for two models at once"
        base = load(*arguments)
        loaded.extend((weakref.ref(tensor), name) for name, tensor in base.model.named_parameters())
        return base

    monkeypatch.setattr(execution, "load_pristine", watched)
    execute(new_run(place, variant, steps=2), never)
    assert len(loaded) == 2 * len({name for _, name in loaded}), "it was loaded twice"


def test_an_unexpected_error_is_recorded_with_its_traceback(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("what is this")

    monkeypatch.setattr(type(get_variant("lora")), "attach", broken)
    run = new_run(place)
    with pytest.raises(KeyError):
        execute(run, never)
    error = run.error()
    assert error is not None and error["code"] == "error" and any("KeyError" in line for line in error["log"])


def test_a_run_is_executed_by_one_process_at_a_time(place: Path) -> None:
    run = new_run(place)
    with Run(run.folder).locked(), pytest.raises(RunError, match="being executed already"):
        execute(run, never)
    assert run.error() is None


@pytest.fixture(scope="module")
def trained(place: Path) -> tuple[Any, Any]:
    """A pipeline that has trained, up to the moment of saving."""
    from lora_playground.jobs.execution import Execution

    run = new_run(place, steps=1)
    execution = Execution(run, never, lambda event: None)
    model, plan = execution.load()
    execution.train(model, plan)
    return execution, model


@pytest.mark.parametrize("n", range(1, 40))
def test_a_disk_that_fails_at_the_nth_call_of_saving(
    trained: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    execution, model = trained
    run = execution.run
    faulty = FaultyOs(n)
    faulty.install(monkeypatch)
    try:
        execution.save(model)
    except PlaygroundError as error:
        assert faulty.fired and "disk is full" in str(error)
    else:
        assert not faulty.fired
    monkeypatch.undo()
    run.sweep()
    assert {path.name for path in run.folder.iterdir()} <= {
        "config.json", "events.jsonl", "checkpoints", "adapter", "update.safetensors", ".lock"
    }  # fmt: skip
    if run.update_path.exists():
        assert load_updates(run.update_path)
    if run.adapter.exists():
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in run.adapter.iterdir()}


def test_the_embedded_model_is_kept_for_the_first_use_alone() -> None:
    from lora_playground.jobs import execution

    marker: Any = type("Base", (), {"dtype": __import__("torch").float32})()
    execution._WARM["base"] = marker
    assert execution.load_pristine(ModelConfig(), "float32") is marker
    assert "base" not in execution._WARM
