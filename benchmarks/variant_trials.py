"""Short trainings of any variant on the embedded model, for the sweep of learning rates and the table of variants.

One process loads base and data once; every training runs in a forked copy of it, so that its peak memory is its own and
nothing it leaves behind reaches the next. No run folders, no probes, no checkpoints. One thread; speed is by processor
time, which other work on the machine does not change much. Results go into a file of JSON lines as they come.
"""

import copy
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_playground.config import RunConfig, TrainingConfig, VariantConfig
from lora_playground.errors import ConfigError, TrainingError
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context

RANKS = (*range(1, 17), *range(18, 65, 2), *range(68, 257, 4))
SIZES = {"block_size": (2, 4, 8, 16, 32, 64), "frequencies": tuple(range(100, 20_001, 100))}
KNOBS = ("rank", "block_size", "frequencies")


def size_of(config: VariantConfig) -> dict[str, int]:
    """What sets how much these options train: {'rank': 8}; empty for variants without such a knob."""
    return {knob: getattr(config, knob) for knob in KNOBS if knob in type(config).model_fields}


@dataclass
class Bench:
    """The base model and prepared data.

    Attributes:
        source: the base model; bits: 16 or 4, how it is stored.
        home: where answers of the base are kept.
        identity: of the base's weights; results of one base are not those of another.
    """

    source: str = "embedded"
    bits: int = 16
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="variant-trials-")))

    def __post_init__(self) -> None:
        import peft  # noqa: F401 - loaded here once, and not in every copy of this process
        import torch

        from lora_playground.jobs import pipeline, scoring  # noqa: F401
        from lora_playground.models import decoding  # noqa: F401
        from lora_playground.training import train  # noqa: F401
        from lora_playground.variants.targets import linear_shapes

        torch.set_num_threads(1)
        scoring.SKILL_ROWS, scoring._CHUNK = 16, 48
        self.base = self._load()
        self.identity = self.base.fingerprint.identity[:12]
        self.shapes = linear_shapes(self.base.model)
        self.everything = [tuple(p.shape) for p in self.base.model.parameters()]
        self._data: dict[tuple[str, int], Any] = {}
        self._warm = False

    def _load(self) -> Any:
        from lora_playground.config import ModelConfig
        from lora_playground.models.loading import load_base

        stored = "4bit" if self.bits == 4 else "none"
        return load_base(ModelConfig(source=self.source, quantisation=stored), device="cpu", dtype="float32")

    def data(self, name: str, seed: int) -> Any:
        """Prepared rows of a dataset."""
        from lora_playground.data.catalogue import get_dataset
        from lora_playground.data.preparation import prepare

        if (name, seed) not in self._data:
            config = RunConfig.parse({"data": {"dataset": name}}).data
            found = get_dataset(name, self.home)
            self._data[name, seed] = prepare(self.base.tokenizer, found, config, seed, True)
        if not self._warm:  # what a first training imports and sets up is shared by all copies of this process
            self._warm = True
            self.fit("lora", VARIANTS["lora"].config(), name, seed, None, Namespace(steps=3, tokens=64))
        return self._data[name, seed]

    def count(self, name: str, config: VariantConfig) -> int:
        """Trained parameters of these options on this base."""
        shapes: Any = self.everything if name == "full" else self.shapes.values()
        return VARIANTS[name].count(list(shapes), config)

    def matched(self, name: str, target: int) -> VariantConfig:
        """The variant's options with its size chosen so that its trained parameters come nearest to `target`; its
        scaling s = α/r stays that of its defaults."""
        variant = VARIANTS[name]
        usual, fields = variant.config(), variant.config.model_fields
        knob = next((knob for knob in KNOBS if knob in fields), None)
        if knob is None:
            return usual
        found = []
        for size in RANKS if knob == "rank" else SIZES[knob]:
            scaled = {"alpha": usual.alpha / usual.rank * size} if {"alpha", "rank"} <= set(fields) else {}
            try:
                config = variant.config(**{knob: size}, **scaled)
                variant.check(config, self.shapes, variant.bits[0])
            except ConfigError:
                continue
            found.append((abs(self.count(name, config) - target), size, config))
        return min(found, key=lambda entry: entry[:2])[2]

    def fit(
        self,
        name: str,
        config: VariantConfig,
        dataset: str,
        seed: int,
        rate: float | None,
        given: Any,
        tick: Callable[[], bool] = lambda: False,
        start: int | None = None,
        emit: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> tuple[Any, Any]:
        """Trains a copy of the base: (what came of it, the trained model).

        `given` has steps and tokens; `tick` is asked before every step; without a rate the variant's own is taken.
        `start` is another seed for the start values alone.
        """
        from lora_playground.jobs.execution import start_batches
        from lora_playground.training import train
        from lora_playground.training.plan import TrainPlan

        variant, pad = VARIANTS[name], self.base.tokenizer.pad_token_id
        prepared = self.data(dataset, seed)
        training = TrainingConfig(
            steps=given.steps,
            batch_tokens=given.tokens,
            learning_rate=rate,
            seed=seed,
            precision="float32",
            validate_every=given.steps,
        )
        copied = copy.deepcopy(self.base.model) if self.bits == 16 else self._load().model
        drawn = seed if start is None else start
        model = variant.attach(
            copied, config, Context(given.steps, drawn, start_batches(prepared, pad), bits=self.bits)
        )
        plan = TrainPlan.of(prepared, training, variant, pad, on_spectra=False, threads=1)
        return train(model, plan, emit, tick), model

    def trial(
        self,
        name: str,
        config: VariantConfig,
        dataset: str,
        seed: int,
        rate: float,
        given: Any,
        score: bool,
        start: int | None = None,
        hopeless: bool = False,
    ) -> dict[str, Any]:
        """Trains a copy of the base and says what came of it; `given` has steps, tokens and rows.

        `hopeless`: whether a training whose loss stands a quarter above its start after a third of the steps is given
        up.
        """
        from lora_playground.jobs.scoring import score_update

        self.data(dataset, seed)
        clock = [time.process_time()]
        row: dict[str, Any] = {"size": size_of(config), "rate": rate}
        losses: list[float] = []

        def tick() -> bool:  # asked before every step
            clock.append(time.process_time())
            late = hopeless and len(losses) > max(8, given.steps // 3)
            return late and sum(losses[-4:]) > 4 * 1.25 * losses[0]

        def emit(event: dict[str, Any]) -> None:
            losses.extend(event.get("losses", ()))

        try:
            outcome, model = self.fit(name, config, dataset, seed, rate, given, tick, start, emit)
        except TrainingError as error:
            return {**row, "loss": None, "error": str(error)[:160]}
        if outcome.stopped:
            return {**row, "loss": None, "error": f"given up at step {outcome.steps}: loss {losses[-1]:.3f}"}
        # Not of the first step, which has the look at the validation rows in it, nor of the second, which is metered.
        seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(clock[3:]))
        row |= {
            "start_seconds": round(clock[1] - clock[0], 2),
            "parameters": outcome.trainable_parameters,
            "start": outcome.validation_start,
            "train_loss": outcome.final_loss,
            "loss": outcome.validation_end,
            "tokens_per_second": round(outcome.tokens / outcome.steps / seconds, 1),
            "peak_memory_bytes": outcome.peak_memory_bytes,
        }
        if score:
            updates = VARIANTS[name].updates(model)
            scored = score_update(self.base, updates, dataset, self.home, rows=given.rows, seconds=None)
            row |= {
                "score": scored["score"]["adapted"],
                "base": scored["score"]["base"],
                "kept": scored["forgetting"]["adapted"],
                "drop": scored["forgetting"]["drop"],
            }
        return {**row, "cpu_seconds": round(time.process_time() - clock[0], 2)}


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns, done in a forked copy of this process; {'error': ...} where it failed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            found = work()
        except BaseException as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:200]}
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(found))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "the process died"}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The results in a file of JSON lines; a torn last line is ignored."""
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def add(path: Path, row: dict[str, Any]) -> None:
    """Appends one result."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
