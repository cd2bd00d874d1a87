"""One attempt at a run: load, encode, attach, train, save, score.

It knows the order of these steps and what goes into the run folder; the packages `models`, `data`, `variants`,
`training` and the module `jobs.scoring` do the work. It knows no queue. Federated runs are a subclass, chosen by
`jobs.pipeline`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_playground.analysis.moments import MOMENTS, Moments
from lora_playground.analysis.update import Update, load_updates, save_updates
from lora_playground.config import ModelConfig, RunConfig
from lora_playground.data.catalogue import Dataset, get_dataset, offered_prompts
from lora_playground.data.packing import IGNORED
from lora_playground.data.preparation import Prepared, rehearsal_examples
from lora_playground.data.preparation import prepare as prepare_data
from lora_playground.errors import RunError, TrainingError
from lora_playground.estimates.run_estimate import RunEstimate
from lora_playground.estimates.time import SCORING_SECONDS, SCORING_SHARE
from lora_playground.jobs.admission import check
from lora_playground.jobs.failures import Held, Stopped, explain, log_traceback
from lora_playground.jobs.scoring import score_update
from lora_playground.machine import memory
from lora_playground.runs import Run
from lora_playground.runs.files import DiskFull, free_bytes, publish, write_json, writing
from lora_playground.training.plan import TrainOutcome, TrainPlan
from lora_playground.variants import get_variant
from lora_playground.variants.base import Context
from lora_playground.wording import counted

if TYPE_CHECKING:
    from lora_playground.models.loading import Base

Event = dict[str, Any]
PROBES = {True: 6, False: 2}
"""{whether the base is the embedded model: number of prompts it is asked while it trains}. Others take longer to
answer."""
PROBE_TOKENS = 48
PROBE_SECONDS, PROBE_SHARE = 5.0, 0.03
"""The most time for the answers at one step: PROBE_SECONDS, or if more, PROBE_SHARE of the run's expected time."""
_WARM: dict[str, Any] = {}
_DEFAULT = RunConfig.parse({})


def prepare() -> None:
    """Does what is possible before a run is known: imports, and loading the embedded base (kept only without a GPU)."""
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    from lora_playground.models import decoding  # noqa: F401
    from lora_playground.models.loading import load_base
    from lora_playground.training import loop  # noqa: F401

    base = load_base(_DEFAULT.model, device="cpu")
    if not torch.cuda.is_available():
        _WARM["base"] = base
        rehearsal_examples(base.tokenizer)


@dataclass
class Execution:
    """One attempt at a run.

    Attributes:
        should_stop: returns whether a stop was requested. emit: called with every event after it was written.
        seconds: {phase: time it took}.
    """

    run: Run
    should_stop: Callable[[], bool]
    emit: Callable[[Event], None]
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.run.config()
        self.home = home_of(self.run)
        self.variant = get_variant(self.config.variant.name)
        self.estimate: RunEstimate | None = None
        self.target_tokens: int | None = None

    def report(self, event: Event) -> None:
        """Appends an event to the run and passes it on."""
        self.run.append(event)
        self.emit(event)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Writes a phase event and measures the phase's time. Raises Stopped instead if a stop was requested."""
        self.check_stop()
        self.report({"type": "phase", "phase": name})
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)

    def check_stop(self) -> None:
        """Raises Stopped if a stop was requested."""
        if self.should_stop():
            raise Stopped("The run was stopped.")

    def result(self) -> dict[str, Any]:
        """Runs all phases and returns the result. `result.json` is written last, without scores, and again with
        them."""
        memory.reset_peak()
        self.seconds["starting"] = round(time.monotonic() - self.run.opened, 3)  # imports, if no worker was prepared
        with self.phase("loading"):
            model, plan = self.load()
        with self.phase("training"):
            outcome = self.train(model, plan)
        with self.phase("saving"):
            updates = self.save(model)
        del model, plan
        memory.release()
        result = {"state": "done", "attempt": self.run.attempt, "seconds": self.seconds, **_trained(outcome)}
        result |= self.extra()
        if self.estimate is not None:
            result |= self.estimate.result_fields(self.run.attempt)
        result["adapter_bytes"] = sum(path.stat().st_size for path in self.run.adapter.rglob("*") if path.is_file())
        if self.target_tokens is not None:
            result["target_tokens"] = self.target_tokens
        if outcome.tensor_bytes is not None:
            result["tensor_memory_bytes"] = outcome.tensor_bytes
        result["peak_memory_bytes"] = max(outcome.peak_memory_bytes, memory.peak())
        # From here on the run is finished; what follows only adds its scores.
        write_json(self.run.result_path, result | unscored("Scoring was cut short."))
        shutil.rmtree(self.run.checkpoints, ignore_errors=True)  # a finished run has nothing left to resume
        result |= self.scored(updates, SCORING_SHARE * outcome.seconds - outcome.probe_seconds)
        result["peak_memory_bytes"] = max(result["peak_memory_bytes"], memory.peak())
        with contextlib.suppress(RunError):
            write_json(self.run.result_path, result)
        return result

    def scored(self, updates: list[Update], seconds: float) -> dict[str, Any]:
        """The fields that scoring adds to the result, within `seconds`, at least SCORING_SECONDS; if it fails, empty
        fields and a note that says why."""
        try:
            with self.phase("evaluating"):
                found = self.evaluate(updates, max(SCORING_SECONDS, seconds))
        except BaseException as error:  # a stop, or a panic in the tokenizers library, which is no Exception
            log_traceback(self.run, error)
            code, message = explain(error)
            note = "Scoring was stopped." if code == "cancelled" else f"The run is finished but not scored: {message}"
            found = unscored(note)
        if note := found["scoring"]["note"]:
            with contextlib.suppress(RunError):
                self.report({"type": "message", "level": "warning", "text": note})
        return found

    def load(self) -> tuple[Any, TrainPlan]:
        """(the model with the variant attached, the plan of its training)."""
        from lora_playground.training.trainable import count

        config, training = self.config, self.config.training
        for text in check(config, self.home):
            self.report({"type": "message", "level": "warning", "text": text})
        base = load_pristine(config.model, training.precision, self.fetched())
        self.check_stop()
        data = get_dataset(config.data.dataset, self.home)
        prepared = prepare_data(base.tokenizer, data, config.data, training.seed, config.model.embedded)
        self.tell_about(prepared)
        self.target_tokens = sum(int(np.sum(example.learned)) for example in prepared.train)
        pad = base.tokenizer.pad_token_id
        context = Context(training.steps, training.seed, start_batches(prepared, pad), config.model.bits)
        self.check_stop()
        total = count(base.model.parameters())
        model = self.variant.attach(base.model, config.variant, context)
        self.check_stop()
        precision = str(base.dtype).removeprefix("torch.")
        self.estimate = RunEstimate(config, base.device.type, precision, prepared, self.home)
        return model, TrainPlan.of(
            prepared,
            self.estimate.fitting(self.run, self.report),
            self.variant,
            pad,
            learning_rate=training.learning_rate or self.variant.rate(config.model.source, training.optimiser),
            starts_as_base=self.variant.starts_as_base(config.variant),
            base_parameters=total,
            on_updates=Moments(self.run.folder / MOMENTS, training.steps if self.run.watched else 0).keep,
            on_probe=self.prober(model, base.tokenizer, data),
            remedies=self.estimate.remedies,
            after=self.estimate.time.after if self.estimate.time else 0.0,
        )

    def fetched(self) -> Callable[[int, int], None]:
        """A function that reports a download about once a second, and ends it if a stop was requested."""
        last = [0.0]

        def tell(done: int, total: int) -> None:
            self.check_stop()
            if done == total or time.monotonic() - last[0] >= 1.0:
                last[0] = time.monotonic()
                self.report({"type": "download", "done": done, "total": total})

        return tell

    def tell_about(self, prepared: Prepared) -> None:
        """Writes messages about rows that were truncated, changed or left out."""
        longest = self.config.data.max_length
        for text in prepared.notes:
            self.report({"type": "message", "level": "warning", "text": text})
        if prepared.truncated:
            longer = counted(prepared.truncated, "example")
            text = f"{longer} longer than {longest} tokens: the rest was cut off."
            self.report({"type": "message", "level": "warning", "text": text})
        if prepared.unlearnable:
            left = counted(prepared.unlearnable, "row")
            text = f"{left} left out, with nothing to learn within {longest} tokens."
            self.report({"type": "message", "level": "warning", "text": text})

    def prober(self, model: Any, tokenizer: Any, data: Dataset) -> Callable[[int, bool], list[dict[str, Any]]] | None:
        """A function of (step, whether only two prompts are asked) that returns greedy answers of the model in training
        to the first prompts of the dataset's test part. None if there are none, or nobody watches the run."""
        prompts = offered_prompts(data, PROBES[self.config.model.embedded]) if self.run.watched else []
        if not prompts:
            return None
        from lora_playground.models.decoding import Decoder

        decoder = Decoder(model, tokenizer)
        expected = self.estimate.time.seconds[0] if self.estimate and self.estimate.time else 0.0
        limit = max(PROBE_SECONDS, PROBE_SHARE * expected)

        def ask(step: int, few: bool) -> list[dict[str, Any]]:
            asked, until = prompts[:2] if few else prompts, time.monotonic() + limit

            def late() -> bool:
                return self.should_stop() or time.monotonic() > until

            answers = decoder.generate(asked, max_new_tokens=PROBE_TOKENS, should_stop=late)
            if step == 0 and late():
                text = f"This model answers slowly: what it says while it learns is cut after {limit:.0f} s."
                self.report({"type": "message", "level": "warning", "text": text})
            return [{"prompt": prompt[-1]["content"], "answer": answer} for prompt, answer in zip(asked, answers)]

        return ask

    def train(self, model: Any, plan: TrainPlan) -> TrainOutcome:
        """Trains. A stop writes a checkpoint and raises Stopped."""
        from lora_playground.training.loop import train

        plan.hold_at, plan.watched = self.run.held_at(), self.run.watched
        outcome = train(model, plan, self.report, self.should_stop, self.run.checkpoints)
        if outcome.stopped and outcome.steps == plan.hold_at and not self.should_stop():
            raise Held(f"Held after step {outcome.steps} of {outcome.planned}: it waits for the others of its sweep.")
        if outcome.stopped:
            raise Stopped(f"The run was stopped after step {outcome.steps} of {outcome.planned}.")
        return outcome

    def extra(self) -> dict[str, Any]:
        """Fields that a subclass adds to the result."""
        return {}

    def save(self, model: Any) -> list[Update]:
        """Writes adapter and update, each staged and then renamed; returns the updates as read back."""
        return self.keep(self.variant.updates(model), lambda folder: self.variant.save(model, folder))

    def keep(self, updates: list[Update], write_adapter: Callable[[Path], Any]) -> list[Update]:
        """Does what `save` does, with a function that writes the adapter's folder."""
        _require_finite(updates)
        need = sum(array.nbytes for update in updates for array in _parts(update).values())
        if (free := free_bytes(self.run.folder)) < 2 * need + 1_000_000:
            raise DiskFull(f"The disk is full: saving needs {2 * need / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free.")
        staged, adapter = self.run.folder / "update.safetensors.tmp", self.run.folder / "adapter.tmp"
        metadata = {"run": self.run.id, "variant": self.variant.name, "base": self.config.model.source}
        with writing(staged):
            save_updates(updates, staged, metadata)
        read = load_updates(staged)
        _require_equal(updates, read)
        with writing(adapter):
            adapter.mkdir()
            write_adapter(adapter)
        _require_adapter(adapter)
        publish(staged, self.run.update_path)
        self.run.answers_path.unlink(missing_ok=True)  # answers of an earlier attempt
        publish(adapter, self.run.adapter)
        return read

    def evaluate(self, updates: list[Update], seconds: float) -> dict[str, Any]:
        """Scores base and adapted model on a freshly loaded base, within `seconds`."""

        def tell(done: int, of: int, left: float) -> None:
            self.report({"type": "scoring", "done": done, "of": of, "eta": round(left, 1)})

        with as_many_threads_as_are_free():
            return score_update(
                load_pristine(self.config.model, self.config.training.precision),
                updates,
                self.config.data.dataset,
                self.home,
                seconds=seconds,
                embedded=self.config.model.embedded,
                should_stop=self.should_stop,
                report=tell,
                answers=self.run.answers_path,
            )


@contextlib.contextmanager
def as_many_threads_as_are_free() -> Iterator[None]:
    """Within the block torch uses as many threads as cores are free. With more threads than free cores, each matrix
    product waits for the slowest thread, which takes many times longer than one thread alone."""
    import torch

    from lora_playground.models.precision import probe
    from lora_playground.training.threads import Threads, levels

    before = torch.get_num_threads()
    Threads(levels(probe("cpu").threads), torch.set_num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_pristine(model: ModelConfig, precision: str, progress: Callable[[int, int], None] | None = None) -> Base:
    """The unchanged base model: the one that `prepare` loaded, if it is the same and not used yet, else loaded here."""
    from lora_playground.models.loading import base_dtype, load_base

    warm: Base | None = _WARM.pop("base", None)
    if warm is not None and model == _DEFAULT.model and base_dtype(model, precision, "cpu") == warm.dtype:
        return warm
    return load_base(model, dtype=precision, progress=progress)


def start_batches(prepared: Prepared, pad: int, count: int = 4, rows: int = 8) -> list[dict[str, Any]]:
    """`count` batches of `rows` training examples, one in each row, padded at the end, for variants whose start is
    computed from data."""
    import torch

    batches = []
    for start in range(0, min(len(prepared.train), count * rows), rows):
        examples = prepared.train[start : start + rows]
        shape = (len(examples), max(len(example.ids) for example in examples))
        ids, mask, labels = np.full(shape, pad, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
            mask[row, : len(example.ids)] = 1
            labels[row, : len(example.ids)] = np.where(example.learned, example.ids, IGNORED)
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batches.append({name: torch.from_numpy(array) for name, array in arrays.items()})
    return batches


def home_of(run: Run) -> Path:
    """The home of a run's folder."""
    return run.folder.parent.parent


def unscored(note: str) -> dict[str, Any]:
    """The fields of a result that scoring fills, all empty, with the reason in `note`."""
    scoring = {"rows": 0, "of": 0, "note": f"{note} `evaluate` makes up for it."}
    return {"score": None, "forgetting": None, "changed": None, "samples": [], "scoring": scoring}


def _trained(outcome: TrainOutcome) -> dict[str, Any]:
    return {
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "tokens_per_second": round(outcome.tokens_per_second, 1),
        "final_loss": outcome.final_loss if np.isfinite(outcome.final_loss) else None,
        "validation_loss": {"base": outcome.validation_start, "adapted": outcome.validation_end},
        "trainable_parameters": outcome.trainable_parameters,
        "total_parameters": outcome.total_parameters,
    }


def _parts(update: Update) -> dict[str, np.ndarray]:
    return {name: array for name in ("B", "A", "dense") if (array := getattr(update, name)) is not None}


def _require_finite(updates: list[Update]) -> None:
    for update in updates:
        if not all(np.isfinite(array).all() for array in _parts(update).values()):
            raise TrainingError(
                f"The update of {update.name} is not finite; nothing was saved. Lower the learning rate and try again."
            )


def _require_equal(made: list[Update], read: list[Update]) -> None:
    """Raises RunError unless the updates read from disk equal those that were saved."""
    found = {update.name: _parts(update) for update in read}
    for update in made:
        for part, array in _parts(update).items():
            again = found.get(update.name, {}).get(part)
            if again is None or not np.array_equal(np.asarray(array, np.float32), again):
                raise RunError(f"The saved update of {update.name} differs from what was learned; try again.")


def _require_adapter(folder: Path) -> None:
    if not any(path.suffix == ".safetensors" for path in folder.rglob("*")):
        raise RunError("The adapter was not written. See the log, and try again.")
