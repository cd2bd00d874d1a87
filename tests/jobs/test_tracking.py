"""Curves sent to a tracker: read back from TensorBoard's own files under TRL's names; a failing one harms no run."""

import pytest

from lora_playground.errors import ConfigError
from lora_playground.jobs import tracking
from lora_playground.jobs.pipeline import execute
from lora_playground.runs import Run
from tests.jobs.support import new_run


@pytest.fixture
def run(place, monkeypatch) -> Run:
    monkeypatch.setenv(tracking.VARIABLE, "tensorboard")
    return new_run(place, steps=4, learning_rate=1e-3)


def test_tensorboard_has_the_curves_of_the_events_under_the_names_of_trl(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    execute(run, lambda: False)
    found = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    progress = run.progress()
    losses = found.Scalars("train/loss")
    assert [entry.step for entry in losses] == [1, 2, 3, 4]
    assert [entry.value for entry in losses] == pytest.approx(progress.losses)
    assert max(entry.value for entry in found.Scalars("train/learning_rate")) == pytest.approx(1e-3)
    assert found.Scalars("eval/loss")[-1].value == pytest.approx(run.result()["validation_loss"]["adapted"])
    assert found.Scalars("eval/score")[-1].value == pytest.approx(run.result()["score"]["adapted"])
    table = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| lora_r | 4 |" in table and "| max_steps | 4 |" in table and "| learning_rate | 0.001 |" in table


def test_a_tracker_that_fails_is_told_and_the_run_is_done(run: Run, monkeypatch) -> None:
    def refuse(*_: object) -> tracking.Tracker:
        raise ConnectionError("no network")

    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", refuse)
    assert execute(run, lambda: False)["state"] == "done"
    assert any("tensorboard gets no more of this run" in text for text in map(str, run.events()))


def test_a_plan_without_a_learning_rate_as_of_a_federated_run_is_sent_without_it(place) -> None:
    plan = {"steps": 4, "start_step": 0, "total_parameters": 20, "trainable_parameters": 2}
    found = tracking.trl_config(new_run(place, steps=4), plan)
    assert found["max_steps"] == 4 and "learning_rate" not in found


def test_an_unknown_or_missing_tracker_is_refused(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="one of tensorboard, trackio, wandb"):
        tracking.choose("mlflow")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"requirements-wandb\.txt"):
        tracking.choose("wandb")
