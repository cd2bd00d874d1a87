"""Sends a run's curves to an experiment tracker, under the names that TRL's trainers use.

It reads the events of a run as they are written and knows nothing of training. A tracker that fails is switched off for
the rest of the run, which continues.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from lora_playground.errors import ConfigError
from lora_playground.runs import Run

VARIABLE = "LORA_PLAYGROUND_TRACK"
"""Environment variable with the tracker's name; workers inherit it from the server."""
PROJECT = "lora-playground"


class Tracker(Protocol):
    """Takes the values of one attempt at a run."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files into the run's folder: `tensorboard --logdir HOME/runs` shows all runs."""

    def __init__(self, run: Run, config: dict[str, Any], start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Removes what an interrupted attempt wrote about steps that are trained again.
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1 if start else None)
        table = "\n".join(f"| {key} | {value} |" for key, value in config.items())
        self._writer.add_text("config", f"| option | value |\n|---|---|\n{table}", start)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Service:
    """wandb, or trackio, which has the same functions. A resumed run continues under the same name."""

    def __init__(self, module: str, run: Run, config: dict[str, Any], **more: Any) -> None:
        self._module: Any = importlib.import_module(module)
        self._module.init(project=PROJECT, name=run.label, config=config, resume="allow", **more)

    def log(self, values: dict[str, float], step: int) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()


def _wandb(run: Run, config: dict[str, Any], start: int) -> Tracker:
    return Service("wandb", run, config, id=run.id, dir=str(run.folder))


def _trackio(run: Run, config: dict[str, Any], start: int) -> Tracker:
    return Service("trackio", run, config)


TRACKERS: dict[str, Callable[[Run, dict[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": _trackio,
    "wandb": _wandb,
}
"""{name: function of run, config and the attempt's first step that opens the tracker}."""


def choose(name: str | None) -> None:
    """Makes `name` the tracker of all runs of this process and its workers; None changes nothing.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise ConfigError("track", name, f"one of {', '.join(TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise ConfigError("track", name, f"install it first: pip install -r requirements-{name}.txt")
    os.environ[VARIABLE] = name


def tracked(run: Run, emit: Callable[[dict[str, Any]], None]) -> Following | None:
    """Passes this run's events to the chosen tracker; None if none is chosen.

    Args:
        emit: called with a `message` event if the tracker fails.
    """
    name = os.environ.get(VARIABLE, "")
    return Following(name, run, emit) if name in TRACKERS else None


class Following:
    """Passes one attempt's events to a tracker, which is opened at the first `plan` event."""

    def __init__(self, name: str, run: Run, emit: Callable[[dict[str, Any]], None]) -> None:
        self._name, self._run, self._emit = name, run, emit
        self._tracker: Tracker | None = None
        self._step, self._failed = 0, False
        self._early: dict[int, dict[str, float]] = {}  # validations ahead of their step's loss: wandb's steps only grow

    def event(self, event: dict[str, Any]) -> None:
        """Takes one event of the run."""
        self._safely(lambda: self._take(event))

    def finish(self, result: dict[str, Any] | None) -> None:
        """Adds the scores of a finished run and closes the tracker."""
        self._safely(lambda: self._end(result))

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "plan" and self._tracker is None:
            self._step = event["start_step"]
            self._tracker = TRACKERS[self._name](self._run, trl_config(self._run, event), self._step)
        elif self._tracker is None:
            return
        elif event["type"] == "loss":
            for step, loss, rate in zip(event["steps"], event["losses"], event["learning_rates"], strict=True):
                values = {"train/loss": loss, "train/learning_rate": rate} | self._early.pop(step, {})
                self._tracker.log(values, step)
                self._step = step
        elif event["type"] == "validation":
            self._early[event["step"]] = {"eval/loss": event["loss"]}
            if event["step"] <= self._step:
                self._tracker.log(self._early.pop(event["step"]), event["step"])

    def _end(self, result: dict[str, Any] | None) -> None:
        if self._tracker is None:
            return
        values = {"train/tokens_per_second": (result or {}).get("tokens_per_second")}
        for part in ("score", "forgetting"):
            found = (result or {}).get(part) or {}
            values[f"eval/{part}"] = found.get("drop" if part == "forgetting" else "adapted")
        self._tracker.log({name: value for name, value in values.items() if value is not None}, self._step)
        self._tracker.close()

    def _safely(self, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            # Trackers print to standard output, which must hold only the value of a command with --json.
            with contextlib.redirect_stdout(sys.stderr):
                act()
        except Exception as error:
            self._failed = True
            text = f"{self._name} gets no more of this run: {type(error).__name__}: {error}"
            self._emit({"type": "message", "level": "warning", "text": text[:500]})


def trl_config(run: Run, plan: dict[str, Any]) -> dict[str, Any]:
    """A run's options under the names in TRL's ModelConfig, ScriptArguments and SFTConfig; others as in config.json."""
    config = run.config().model_dump(mode="json")
    variant, training = config["variant"], config["training"]
    named = {
        "model_name_or_path": config["model"]["source"],
        "dataset_name": config["data"]["dataset"],
        "max_length": config["data"]["max_length"],
        "max_steps": plan["steps"],
        "learning_rate": training["learning_rate"] or plan.get("recipe", {}).get("learning_rate"),
        "seed": training["seed"],
        "use_peft": variant["name"] != "full",
        "lora_r": variant.get("rank"),
        "lora_alpha": variant.get("alpha"),
        "lora_dropout": variant.get("dropout"),
        "num_parameters": plan["total_parameters"],
        "num_trainable_parameters": plan["trainable_parameters"],
    }
    sections = {name: part for name, part in config.items() if isinstance(part, dict)}
    own = {f"{name}.{key}": value for name, part in sections.items() for key, value in part.items()}
    return {key: value for key, value in (named | own).items() if value is not None}
