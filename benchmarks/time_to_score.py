"""Steps, tokens and seconds until the test score is nearly that of a full training: ours against TRL with PEFT.

    python benchmarks/time_to_score.py [--json FILE] [--datasets pirate translation] [--seeds 0 1 2]

A contender trains on a dataset's training rows and answers the first test rows now and then, with its clock stopped.
It has arrived when its score is at least `--share` of the full one: the best score that our loop reaches in
`--full-steps` steps. All train LoRA of the same rank on the same modules and are scored by the same decoder.

    quick     this project's loop as the preset `quick` has it
    default   TRL's SFTTrainer with PEFT's LoraConfig, all options as they come but assistant-only loss, and float32 on
              processors that only emulate bfloat16
    swept     the same without gradient checkpointing, with fused AdamW and a constant rate, and with the fastest of a
              small sweep: learning rate and batch (the sweep is run with the first seed, and a setting of it is given
              up once it is slower than the best so far)

A contender that has not arrived by `--limit` times the steps of `quick`, or in `--most-seconds`, counts with what it
used until then, so its ratio is a bound. `--json` keeps every finished trial, and goes on from there.
On a busy machine use `--clock cpu --threads 1`, which counts processor time; steps and tokens do not depend on it.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import TrainerCallback, logging

from lora_playground import evaluation
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import answer_of, get_dataset
from lora_playground.data.preparation import prepare
from lora_playground.models.decoding import Decoder
from lora_playground.models.loading import load_base
from lora_playground.models.precision import probe
from lora_playground.presets import with_preset
from lora_playground.training import TrainPlan, train
from lora_playground.variants import get_variant
from lora_playground.variants.base import Context

DATASETS = ("pirate", "facts-small", "facts-large", "translation")
SWEEP = [{"learning_rate": rate, "per_device_train_batch_size": size} for rate in (1e-3, 4e-3) for size in (8, 16)]
TUNED = {"gradient_checkpointing": False, "optim": "adamw_torch_fused", "lr_scheduler_type": "constant"}
"""Of every setting of the sweep, since they make it faster and change nothing that is learned."""


@dataclass
class Trial:
    """One training: when it arrived, and its curve of [step, tokens, seconds, score]."""

    dataset: str
    contender: str
    seed: int
    curve: list[list[float]]

    def arrival(self, target: float) -> tuple[list[float], bool]:
        """The first point at or above the target, else the last one; whether it arrived."""
        for point in self.curve:
            if point[3] >= target:
                return point, True
        return self.curve[-1], False


class Watch:
    """Scores a model in training every `every` steps, outside of its clock.

    Args:
        most: steps and seconds after which it says stop; so does a score of `enough`.
    """

    def __init__(self, given: argparse.Namespace, dataset: str, every: int, most: int, enough: float = 2.0) -> None:
        self.now = time.process_time if given.clock == "cpu" else time.perf_counter
        data = get_dataset(dataset)
        self.rows, self.metric = [row for row in data.test if row.get("messages")][: given.rows], data.card.metric
        self.every, self.most, self.seconds, self.enough = every, most, given.most_seconds, enough
        self.curve: list[list[float]] = []
        self.decoder: Decoder | None = None
        self.start, self.away = 0.0, 0.0

    def begin(self, model: Any, tokenizer: Any) -> None:
        """The clock starts with the first step."""
        self.decoder = Decoder(model, tokenizer)
        longest = max(len(tokenizer(answer_of(row), add_special_tokens=False)["input_ids"]) for row in self.rows)
        self.limit = longest * 3 // 2 + 8
        self.start = self.now()

    def look(self, model: Any, step: int, tokens: int) -> bool:
        """Scores after this step if it is due; whether the training may end."""
        if step % self.every and step < self.most:
            return False
        left = self.now()
        assert self.decoder is not None
        training = model.training
        model.eval()

        def generate(chats: list[Any]) -> list[str]:
            assert self.decoder is not None
            return self.decoder.generate(chats, max_new_tokens=self.limit)

        score = evaluation.evaluate(generate, self.rows, self.metric, batch=len(self.rows))["score"]
        model.train(training)
        seconds = left - self.start - self.away
        self.curve.append([step, tokens, round(seconds, 3), round(score, 4)])
        self.away += self.now() - left
        return step >= self.most or seconds > self.seconds or score >= self.enough


def ours(given: argparse.Namespace, dataset: str, seed: int, watch: Watch, steps: int | None = None) -> None:
    """Our loop with the preset `quick`, without its early stop; `steps` other than the preset's where given."""
    config = RunConfig.parse(with_preset({"data": {"dataset": dataset}, "training": {"seed": seed}}, "quick"))
    changes = {"early_stop": False} | ({"steps": steps} if steps else {})
    training = config.training.model_copy(update=changes)
    base = load_base(config.model, dtype="auto")
    prepared = prepare(base.tokenizer, get_dataset(dataset), config.data, seed, embedded=True)
    variant = get_variant(config.variant.name)
    model = variant.attach(base.model, config.variant, Context(training.steps, seed))
    rate = training.learning_rate or variant.rate("embedded", training.optimiser)
    plan = TrainPlan.of(prepared, training, variant, base.tokenizer.pad_token_id, learning_rate=rate, on_spectra=False)
    plan.threads, plan.validation = given.threads, []
    done = [-1]

    def should_stop() -> bool:
        """Asked before every step."""
        done[0] += 1
        if done[0] == 0:
            watch.begin(model, base.tokenizer)
            return False
        return watch.look(model, done[0], done[0] * training.batch_tokens)

    watch.most = min(watch.most, training.steps)
    outcome = train(model, plan, lambda event: None, should_stop)
    if not outcome.stopped:
        watch.look(model, outcome.steps, outcome.tokens)


class _Callback(TrainerCallback):
    def __init__(self, watch: Watch) -> None:
        self.watch, self.tokens = watch, 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.watch.look(model, state.global_step, self.tokens):
            control.should_training_stop = True


def trl(given: argparse.Namespace, dataset: str, seed: int, watch: Watch, **options: Any) -> None:
    """TRL's SFTTrainer with PEFT's LoRA on all linear modules."""
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    base = load_base(RunConfig.parse({}).model, dtype="auto")
    rows = Dataset.from_list([{"messages": row["messages"]} for row in get_dataset(dataset).train])
    callback = _Callback(watch)

    class Counting(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            callback.tokens += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, assistant_only_loss=True, bf16=probe().dtype == "bfloat16", seed=seed, report_to=[],
            save_strategy="no", disable_tqdm=True, use_cpu=not torch.cuda.is_available(), max_steps=watch.most,
            **options,
        )  # fmt: skip
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = Counting(
            base.model, args=config, train_dataset=rows, processing_class=base.tokenizer, peft_config=lora,
            callbacks=[callback],
        )  # fmt: skip
        watch.begin(trainer.model, base.tokenizer)
        trainer.train()


class Table:
    """The trials so far, kept in a file if there is one."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.path: Path | None = given.json
        kept = json.loads(self.path.read_text())["trials"] if self.path and self.path.is_file() else []
        self.trials = [Trial(**trial) for trial in kept]

    def get(self, dataset: str, contender: str, seed: int, make: Callable[[], Watch]) -> Trial:
        """A trial, made if it is not there yet."""
        for trial in self.trials:
            if (trial.dataset, trial.contender, trial.seed) == (dataset, contender, seed):
                return trial
        stdout, sys.stdout = sys.stdout, sys.stderr  # SFTTrainer prints its logs
        try:
            watch = make()
        finally:
            sys.stdout = stdout
        trial = Trial(dataset, contender, seed, watch.curve)
        self.trials.append(trial)
        print(f"{dataset:12s} {contender:22s} seed {seed}  {trial.curve[-1]}", file=sys.stderr, flush=True)
        if self.path:
            self.path.write_text(json.dumps({"trials": [asdict(trial) for trial in self.trials]}, indent=1))
        return trial


def compare(given: argparse.Namespace, table: Table, dataset: str) -> list[dict[str, Any]]:
    """All contenders on one dataset, a row for each seed and contender."""

    def full() -> Watch:
        watch = Watch(given, dataset, max(1, given.full_steps // 4), given.full_steps)
        ours(given, dataset, given.seeds[0], watch, given.full_steps)
        return watch

    whole = table.get(dataset, "full", given.seeds[0], full)
    target = given.share * max(point[3] for point in whole.curve)

    def quick(seed: int) -> Trial:
        def make() -> Watch:
            watch = Watch(given, dataset, given.every, 10**6, target)
            ours(given, dataset, seed, watch)
            return watch

        return table.get(dataset, "quick", seed, make)

    limit = given.limit * max(int(quick(seed).curve[-1][0]) for seed in given.seeds)

    def peer(name: str, seed: int, options: dict[str, Any], seconds: float = math.inf) -> Trial:
        def make() -> Watch:
            watch = Watch(given, dataset, given.every, limit, target)
            watch.seconds = min(watch.seconds, seconds)
            trl(given, dataset, seed, watch, **options)
            return watch

        return table.get(dataset, name, seed, make)

    best, least = SWEEP[0], (True, math.inf)
    for options in SWEEP:
        seconds = math.inf if least[0] else least[1]  # once one arrived, no other need take longer
        trial = peer(f"sweep {json.dumps(options)}", given.seeds[0], TUNED | options, seconds)
        point, arrived = trial.arrival(target)
        cost = (not arrived, point[2] if arrived else -point[3])
        if cost < least:
            best, least = options, cost
    rows = []
    for seed in given.seeds:
        swept = f"sweep {json.dumps(best)}" if seed == given.seeds[0] else "swept"
        made = {"quick": quick(seed), "default": peer("default", seed, {}), "swept": peer(swept, seed, TUNED | best)}
        for name, trial in made.items():
            (step, tokens, seconds, score), arrived = trial.arrival(target)
            row = {"dataset": dataset, "contender": name, "seed": seed, "arrived": arrived, "steps": step}
            rows.append(row | {"tokens": tokens, "seconds": seconds, "score": score, "target": target})
    return rows


def mean(values: list[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def main() -> None:
    """Runs all contenders and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="keep the trials here and go on from them")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.95)
    parser.add_argument("--full-steps", type=int, default=400)
    parser.add_argument("--rows", type=int, default=96, help="test rows")
    parser.add_argument("--every", type=int, default=10, help="steps between scores")
    parser.add_argument("--limit", type=int, default=6, help="a peer may take so many times our steps")
    parser.add_argument("--most-seconds", type=float, default=600.0)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--threads", type=int, default=None, help="default: what the probe chooses")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    if given.threads:
        torch.set_num_threads(given.threads)
    table = Table(given)
    rows = [row for dataset in given.datasets for row in compare(given, table, dataset)]
    print("dataset       contender  seed  steps  tokens  seconds  score  target")
    for row in rows:
        mark = "" if row["arrived"] else "  not reached"
        print(
            f"{row['dataset']:12s}  {row['contender']:9s}  {row['seed']:4d}  {row['steps']:5.0f}  {row['tokens']:6.0f}"
            f"  {row['seconds']:7.1f}  {row['score']:5.3f}  {row['target']:6.3f}{mark}"
        )
    for peer in ("default", "swept"):
        for unit in ("steps", "tokens", "seconds"):
            by_dataset = []
            for dataset in given.datasets:
                mine, theirs = (
                    mean([row[unit] for row in rows if row["dataset"] == dataset and row["contender"] == name])
                    for name in ("quick", peer)
                )
                by_dataset.append(mine / theirs)
            print(f"ratio_{peer}_{unit} {mean(by_dataset):.3f}")


if __name__ == "__main__":
    main()
