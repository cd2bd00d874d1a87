"""The training loop: plain PyTorch, one optimiser step after another, without waiting for the device in between.

It knows no user interface, no run folder (only a folder for checkpoints) and no particular variant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_playground.data.packing import Stream, digest_of, row_length
from lora_playground.errors import TrainingError
from lora_playground.machine import memory
from lora_playground.models.precision import probe
from lora_playground.training import checkpoints as saved
from lora_playground.training.attention import segmented
from lora_playground.training.fused_lora import fused_lora
from lora_playground.training.loss import PackedLoss, mean_loss, validation_batches
from lora_playground.training.memory import TensorMeter, memory_problem
from lora_playground.training.optimisers import optimiser
from lora_playground.training.plan import Emit, TrainOutcome, TrainPlan
from lora_playground.training.reports import Fields, LossReport, Report, spectra_fields
from lora_playground.training.schedule import Budget, Plateau, factor
from lora_playground.training.threads import Threads, levels
from lora_playground.training.trainable import computing_dtype, count, foreach, trained_modules, without_update

CHECKPOINT_SECONDS = 10.0
SPECTRA_SHARE, PROBE_SHARE, VALIDATION_SHARE = 0.01, 0.03, 0.03
"""Shares of the training time for live spectra, for probes with all prompts (dearer ones ask a few), for validation."""
PROBE_AT, FEW = (0.05, 0.1, 0.2, 0.4, 0.7), 1 / 3
"""Shares of the steps after which probe prompts are answered, besides start and end; cost of a few relative to all."""


def train(
    model: nn.Module,
    plan: TrainPlan,
    emit: Emit,
    should_stop: Callable[[], bool],
    checkpoints: Path | None = None,
) -> TrainOutcome:
    """Trains the parameters of `model` that require gradients.

    Args:
        model: what `Variant.attach` returned; on its device; trained in place.
        plan: data, options and callbacks.
        emit: takes events without `t` and `attempt`.
        should_stop: called before every step; True ends training, and a checkpoint is written.
        checkpoints: folder for them, None for none. Training goes on from the newest checkpoint of the same run in it,
            with the losses of a run that was never interrupted.

    Raises:
        TrainingError: the loss is not finite (naming the step), the memory is full (need, have, remedies), or there is
            nothing to train.
    """
    loop = _Loop(model, plan, emit, should_stop, checkpoints)
    try:
        with loop.environment():
            return loop.run()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        problem = memory_problem(error, plan)
        if problem is None:
            raise
    # Raised outside the handler, so that the traceback does not keep the tensors alive.
    raise TrainingError(problem)


class _Loop:
    """The state of one attempt."""

    def __init__(
        self, model: nn.Module, plan: TrainPlan, emit: Emit, should_stop: Callable[[], bool], folder: Path | None
    ) -> None:
        self.model, self.plan, self.emit, self.should_stop, self.folder = model, plan, emit, should_stop, folder
        self.config = plan.training
        self.device = next(model.parameters()).device
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.trained:
            raise TrainingError("Nothing trains: the variant has no trainable parameter. Choose other target modules.")
        if not plan.train:
            raise TrainingError("There is nothing to learn: the training part has no usable row. Choose other data.")
        self.dtype = computing_dtype(model, self.config.precision)
        self.trainable = count(self.trained.values())
        self.total_parameters = plan.base_parameters or count(model.parameters())
        self.validation_start: float | None = None
        self.spent = 0.0  # seconds of earlier attempts, which count for a time budget
        self.meter = TensorMeter()

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Threads, seed, matmul precision and the faster passes, inside the block only."""
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        fixed = self.plan.threads or (threads if self.device.type != "cpu" else None)
        self.threads = Threads([fixed] if fixed else levels(probe("cpu").threads), torch.set_num_threads)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(self.config.seed)
        try:
            on_cpu = self.plan.fused and self.device.type == "cpu"
            inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            with fused_lora(self.model, enabled=self.plan.fused), segmented(inner, enabled=on_cpu) as self.segmented:
                self.model.train()
                yield
        finally:
            self.model.eval()
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)

    def run(self) -> TrainOutcome:
        """From packing the data to the last validation."""
        self._prepare()
        self.plateau = Plateau()
        start = self.start = self._resume()
        self.budget = Budget(self.total, self.config.seconds, start)
        self._make_reports()
        self._emit_plan()
        begun, validation_end = time.perf_counter(), None
        done, stopped = self._steps(start)
        if done > start or not stopped:
            validation_end = self._validate(done)
            self._aside(self.spectra.send, done)
            self._aside(self.probes.send, done)
        if self.folder is not None and stopped:
            self._save(done, self._elapsed())
        return self._outcome(done, stopped, validation_end, time.perf_counter() - begun)

    # ------------------------------------------------------------------------------------------------ preparation

    def _prepare(self) -> None:
        config, plan = self.config, self.plan
        if config.gradient_checkpointing and hasattr(self.model, "gradient_checkpointing_enable"):
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.loss = PackedLoss(self.model, self.dtype, self.segmented)
        if self.loss.solo:
            text = "This model cannot keep packed examples apart, so every example gets a row of its own (slower)."
            self.emit({"type": "message", "level": "info", "text": text})
        examples = [*plan.train, *plan.rehearsal]
        micro = max(1, config.batch_tokens // config.accumulation)
        # One long row packs best, and attention by segments costs the same in it; with a mask, short rows are cheaper.
        length = row_length(examples, micro, whole=self.loss.segmented)
        rows = max(1, micro // length)
        self.stream = Stream(
            plan.train, length, rows, plan.pad, config.seed, plan.rehearsal, plan.rehearsal_share, self.loss.solo
        )
        self.validation = validation_batches(plan.validation, length, rows, plan.pad, self.loss.solo)
        self.optimiser = optimiser(self.model, plan)
        self.peaks = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.total, self.tokens = config.steps, 0
        self.tokens_per_step = length * rows * config.accumulation

    def _make_reports(self) -> None:
        plan = self.plan
        self.losses = LossReport(self.emit, lambda: self.budget.steps, plan.after)

        def spectra(step: int) -> Fields:
            updates = plan.variant.updates(self.model)
            plan.on_updates(step, updates)
            return spectra_fields(updates, plan.on_spectra)

        def probe(step: int) -> Fields:
            assert plan.on_probe is not None
            # A run that is too short for all prompts, asked each time, is asked a few of them between start and end.
            due = self._elapsed() * self.budget.steps / step * PROBE_SHARE / len(PROBE_AT) if step else float("inf")
            return {"answers": plan.on_probe(step, step < self.budget.steps and self.probes.cost > due)}

        def validation(step: int) -> Fields | None:
            value = mean_loss(self.loss, self.validation)
            return None if value is None else {"loss": round(value, 6)}

        # Spectra of dense updates may take seconds, so they wait until their share pays for a first look.
        self.spectra = Report(
            self.emit, "spectra", None if plan.on_spectra is False else spectra, SPECTRA_SHARE,
            every=1.0, cost=0.0 if plan.variant.low_rank else 0.3, title="Live spectra are",
        )  # fmt: skip
        asked = probe if plan.on_probe else None
        self.probes = Report(self.emit, "probe", asked, 0.07, grace=4.0, title="'Watch it learn' is")
        self.probed = self.start / self.budget.steps
        # With half a second of grace, once a run, so that a short one has a validation curve too.
        self.validations = Report(self.emit, "validation", validation, VALIDATION_SHARE, grace=0.5 * (self.start == 0))

    def _resume(self) -> int:
        """Loads the newest checkpoint that fits; returns the steps already done."""
        examples = [*self.plan.train, *self.plan.rehearsal]
        self.signature = saved.signature_of(self.config, self.trained, examples)
        state = saved.load_newest(self.folder, self.signature) if self.folder is not None else None
        if state is None:
            return 0
        with torch.no_grad():
            for name, tensor in state.parameters.items():
                self.trained[name].copy_(tensor)
        self.optimiser.load_state_dict(state.optimiser)
        self.plan.variant.restore_training_state(self.model, state.variant)
        saved.restore_generators(state.generators)
        self.stream.skip(state.step * self.config.accumulation)
        self.total, self.tokens, self.validation_start = state.steps, state.tokens, state.validation_start
        self.spent, self.plateau = state.seconds, Plateau.of(state.plateau)
        if self.config.seconds is None:
            self.total = max(self.config.steps, state.step)
        return state.step

    def _emit_plan(self) -> None:
        plan = self.plan
        self.emit(
            {
                "type": "plan",
                "steps": self.budget.steps,
                "start_step": self.start,
                "trainable_parameters": self.trainable,
                "total_parameters": self.total_parameters,
                "tokens_per_step": self.tokens_per_step,
                "precision": str(self.dtype).removeprefix("torch."),
                "threads": self.threads.count,
                "device": str(self.device),
                "modules": trained_modules(self.model),
                "rows": plan.rows or {"train": len(plan.train), "validation": len(plan.validation)},
                "truncated": plan.truncated,
                "recipe": {
                    "accumulation": self.config.accumulation,
                    "rows": self.stream.rows,
                    "length": self.stream.length,
                    "solo": self.stream.solo,
                    "examples": digest_of([*plan.train, *plan.rehearsal]),
                    "learning_rate": plan.peak_rate,
                },
            }
        )

    # ------------------------------------------------------------------------------------------------------ steps

    def _steps(self, start: int) -> tuple[int, bool]:
        """Optimiser steps until the plan is done or someone stops; returns (steps done, stopped)."""
        self.clock = time.perf_counter() - self.spent
        last_save, step = time.perf_counter(), start
        while step < self.budget.steps:
            if self.should_stop() or step == self.plan.hold_at:
                self._flush()
                return step, True
            if step == min(start + 1, self.budget.steps - 1):  # the second step, for the first one warms caches up
                with self.meter.measuring(self.model, self.optimiser, self.device):
                    self._step(step)
            else:
                began = time.perf_counter()
                self._step(step)
                self.threads.took(time.perf_counter() - began)
            step += 1
            if self.losses.due:
                self._flush()
                self._keep_to_budget(step)
                self._aside(self.spectra.maybe, step)
            if step < self.budget.steps:
                self._probe_if_due(step)
                self._validate_if_due(step)
            if self.folder is not None and self._save_due(step, last_save):
                self._flush()
                self._aside(self._save, step)
                last_save = time.perf_counter()
        self._flush()
        return step, False

    def _keep_to_budget(self, step: int) -> None:
        """Corrects the planned number of steps to a time budget, which includes the reports on the finished model."""
        self.budget.reserve = sum(report.cost for report in (self.validations, self.spectra, self.probes))
        if self.budget.update(step, self._elapsed()):
            self._emit_plan()

    def _validate_if_due(self, step: int) -> None:
        """Validates at the interval that the user has set, or at `plan.common`, or else about ten times if
        VALIDATION_SHARE allows it. A run that may end early is validated from a third of its steps on at any cost."""
        every, fixed = self.config.validate_every or max(1, self.budget.steps // 10), self.plan.common
        if (step not in fixed) if fixed else step % every:
            return
        if self.config.early_stop and 3 * step >= self.budget.steps:
            loss = self._validate(step)
            if loss is not None and self.plateau.update(step, loss):
                self._end_early(step)
        elif step != self.plan.hold_at:  # where training stops it is validated in any case
            self._aside(self.validations.send if self.config.validate_every or fixed else self.validations.maybe, step)

    def _probe_if_due(self, step: int) -> None:
        """Has the model answer the probe prompts, or a few, after fixed shares of the steps, if there is time."""
        reached = max((share for share in PROBE_AT if share * self.budget.steps <= step), default=0.0)
        if reached > self.probed:
            self.probed = reached
            if self.probes.affords((self._elapsed() - self.probes.spent) * self.budget.steps / step, FEW):
                self._aside(self.probes.send, step)

    def _end_early(self, step: int) -> None:
        """Makes this step the last one and says why."""
        text = f"Training ends after {step} of {self.budget.steps} steps: the validation loss has not fallen since"
        text += f" step {self.plateau.step} ({self.plateau.best:.3f})."
        self.emit({"type": "message", "level": "info", "text": text})
        self.budget.steps = step
        self._emit_plan()

    def _validate(self, step: int) -> float | None:
        """The loss on the validation examples, None if there are none."""
        return (self._aside(self.validations.send, step) or {}).get("loss")

    def _step(self, step: int) -> None:
        """One optimiser step. Nothing in it waits for the device."""
        batches = [next(self.stream) for _ in range(self.config.accumulation)]
        learned = max(1, sum(batch.learned for batch in batches))
        rate = factor(step, self.budget.steps, self.config)
        for group, peak in zip(self.optimiser.param_groups, self.peaks):
            group["lr"] = peak * rate
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = self.loss.loss_sum(self.loss.put(batch)) / learned
            loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.config.clip, foreach=foreach(self.device))
        tokens = sum(batch.tokens for batch in batches)
        self.tokens += tokens
        self.losses.add(step + 1, total, norm, self.plan.peak_rate * rate, tokens)
        if step == 0:
            self._first_look()
        self.plan.variant.after_backward(self.model, step + 1)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.plan.variant.after_step(self.model, step + 1)

    def _first_look(self) -> None:
        """Before the first step changes anything: sends its loss, then the base's validation loss and answers."""
        self._flush()
        with nullcontext() if self.plan.starts_as_base else without_update(self.model):
            self.validation_start = self._validate(0)
            self._aside(self.probes.send, 0)

    def _flush(self) -> None:
        bad = self.losses.flush()
        if bad is not None:
            kept = "The last good checkpoint is kept. " if self.folder is not None else ""
            raise TrainingError(
                f"The loss or its gradient is no longer a number at step {bad}, so training stopped. {kept}"
                f"Lower the learning rate (now {self.plan.peak_rate:g}) "
                f"or the clipping norm (now {self.config.clip:g})."
            )

    def _aside(self, action: Callable[..., Any], step: int) -> Any:
        """Calls `action(step, seconds of training so far)` without counting its time as training and without changing
        the training's random numbers."""
        start, state, training = time.perf_counter(), saved.generators(), self.model.training
        result = action(step, self._elapsed())
        self.model.train(training)
        saved.restore_generators(state)
        self.losses.pause(time.perf_counter() - start)
        return result

    def _elapsed(self) -> float:
        return time.perf_counter() - self.clock

    def _save_due(self, step: int, last: float) -> bool:
        if self.config.checkpoint_every is not None:
            return step % self.config.checkpoint_every == 0
        return time.perf_counter() - last >= CHECKPOINT_SECONDS

    def _save(self, step: int, elapsed: float) -> None:
        assert self.folder is not None
        state = saved.State(
            step,
            self.budget.steps,
            self.tokens,
            self.signature,
            dict(self.trained),
            self.optimiser.state_dict(),
            saved.generators(),
            self.plan.variant.training_state(self.model),
            self.validation_start,
            elapsed,
            astuple(self.plateau),
        )
        saved.save(self.folder, state)
        self.emit({"type": "checkpoint", "step": step})

    def _outcome(self, done: int, stopped: bool, validation_end: float | None, seconds: float) -> TrainOutcome:
        last = self.losses.history[-10:]
        return TrainOutcome(
            steps=done,
            planned=self.budget.steps,
            stopped=stopped,
            tokens=self.losses.tokens,
            tokens_per_second=self.losses.tokens / self.losses.seconds if self.losses.seconds else 0.0,
            seconds=seconds,
            final_loss=sum(last) / len(last) if last else float("nan"),
            losses=self.losses.history,
            validation_start=self.validation_start,
            validation_end=validation_end,
            trainable_parameters=self.trainable,
            total_parameters=self.total_parameters,
            peak_memory_bytes=max(self.meter.earlier, memory.peak(self.device.type)),
            tensor_bytes=self.meter.bytes,
            report_seconds=self.spectra.spent,
            probe_seconds=self.probes.spent,
        )
