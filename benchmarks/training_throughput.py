"""Our training loop against TRL's SFTTrainer with PEFT: same model, data, LoRA, optimiser maths and seed; tokens/s.

    python benchmarks/training_throughput.py [--json] [--dataset pirate] [--steps 6] [--rounds 3]

Contenders take turns in every round; the medians are compared. Counted are tokens that are no padding, between the end
of the first step and the end of the last.

    default          SFTTrainer with assistant-only loss and the same examples a step, all else as it comes: batches of
                     8, gradient checkpointing, bfloat16 autocast
    default_float32  the same in float32, for processors that only emulate bfloat16 (where `default` is hopeless)
    tuned            one batch a step, no checkpointing, fused AdamW, bfloat16 only where the probe finds it faster
    ours             this project's loop, live spectra included

TRL's packing is left out: without FlashAttention, as on a CPU, it lets packed examples see each other.
On a busy machine, `--clock cpu --threads 1` counts processor time instead of the time that passed.
`losses` are means a learned token on the same validation rows, by one function for all, before and after.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import TrainerCallback, logging
from trl import SFTConfig, SFTTrainer

from lora_playground.config import ModelConfig, TrainingConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.encoding import encode
from lora_playground.data.packing import pack
from lora_playground.models.loading import load_base
from lora_playground.models.precision import probe
from lora_playground.training import TrainPlan, train
from lora_playground.training.loss import PackedLoss, mean_loss
from lora_playground.variants import get_variant
from lora_playground.variants.base import Context

RANK, RATE, LENGTH = 8, 1e-3, 256


class Bench:
    """Model, data and plan shared by all contenders."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.steps, self.tokens, self.source = given.steps, given.tokens, given.model
        self.precision = probe()
        self.now = time.process_time if given.clock == "cpu" else time.perf_counter
        self.threads = given.threads or self.precision.threads
        data = get_dataset(given.dataset)
        tokenizer = load_base(ModelConfig(source=self.source), dtype="float32").tokenizer
        self.rows = [{"messages": row["messages"]} for row in data.train]
        self.train = encode(tokenizer, data.train, LENGTH).examples
        self.validation = encode(tokenizer, data.validation, LENGTH).examples[:100]
        mean = sum(len(example.ids) for example in self.train) / len(self.train)
        self.examples = max(8, round(self.tokens / mean / 8) * 8)

    def model(self) -> tuple[Any, Any]:
        """A fresh model with the same LoRA start for everyone, and its tokenizer."""
        base = load_base(ModelConfig(source=self.source), dtype=self.precision.dtype)
        variant = get_variant("lora")
        return variant.attach(base.model, variant.config(rank=RANK), Context(self.steps, 0)), base.tokenizer

    def loss(self, model: Any) -> float:
        """Validation loss, by the same function for every contender."""
        dtype = getattr(torch, self.precision.dtype)
        value = mean_loss(PackedLoss(model, dtype), pack(self.validation, LENGTH, 4, 0))
        assert value is not None
        return value


def ours(bench: Bench) -> tuple[float, Any]:
    """Tokens a second of our loop, and the trained model."""
    model, tokenizer = bench.model()
    training = TrainingConfig(
        steps=bench.steps, batch_tokens=bench.tokens, learning_rate=RATE, warmup=0.0, schedule="constant", seed=0
    )
    plan = TrainPlan(training, get_variant("lora"), bench.train, pad=tokenizer.pad_token_id, threads=bench.threads)
    clock: list[float] = []

    def tick() -> bool:
        clock.append(bench.now())
        return False

    outcome = train(model, plan, lambda event: None, tick)
    # The clock ticks before each step; the last step ends with the training itself, last spectra included.
    share = (bench.steps - 1) / bench.steps
    return outcome.tokens * share / (bench.now() - clock[1]), model


class _Clock(TrainerCallback):
    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(self.now())


class _Counting(SFTTrainer):
    counts: list[int]

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.counts.append(int(inputs["attention_mask"].sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)


def peer(bench: Bench, tuned: bool, bfloat16: bool) -> tuple[float, Any]:
    """Tokens a second of SFTTrainer, and the trained model."""
    from datasets import Dataset, disable_progress_bars

    model, tokenizer = bench.model()
    options: dict[str, Any] = {"gradient_checkpointing": False, "optim": "adamw_torch_fused"} if tuned else {}
    size = bench.examples if tuned else 8
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=bench.steps,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=bench.examples // size,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            max_length=LENGTH,
            assistant_only_loss=True,
            bf16=bfloat16,
            seed=0,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **options,
        )
        clock = _Clock(bench.now)
        disable_progress_bars()
        dataset = Dataset.from_list(bench.rows)
        trainer = _Counting(model, args=config, train_dataset=dataset, processing_class=tokenizer, callbacks=[clock])
        trainer.counts = []
        trainer.train()
    batches = bench.examples // size
    tokens = sum(trainer.counts[batches:])
    return tokens / (clock.ends[-1] - clock.ends[0]), model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--dataset", default="pirate")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens an optimiser step sees, about")
    parser.add_argument("--threads", type=int, default=None, help="default: what the probe chooses")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="time that passed, or processor time")
    parser.add_argument("--only", nargs="*", help="only these contenders")
    given = parser.parse_args()
    if given.steps < 2:
        parser.error("--steps must be at least 2: the first step only warms up")
    return given


def main() -> None:
    """Runs all contenders in turns and prints the ratios."""
    given = arguments()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    bench = Bench(given)
    torch.set_num_threads(bench.threads)
    fast = bench.precision.dtype == "bfloat16"
    contenders = {
        "ours": lambda: ours(bench),
        "tuned": lambda: peer(bench, tuned=True, bfloat16=fast),
        "default_float32": lambda: peer(bench, tuned=False, bfloat16=False),
        "default": lambda: peer(bench, tuned=False, bfloat16=True),
    }
    contenders = {name: run for name, run in contenders.items() if not given.only or name in given.only}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    losses = {"before": bench.loss(bench.model()[0])}
    for number in range(given.rounds):
        for name, contender in contenders.items():
            if name == "default" and number and not fast:
                continue  # Emulated bfloat16 is so slow that one round tells enough.
            stdout, sys.stdout = sys.stdout, sys.stderr  # SFTTrainer prints its logs
            try:
                rate, model = contender()
            finally:
                sys.stdout = stdout
            rates[name].append(rate)
            losses[name] = bench.loss(model)
            print(f"round {number + 1}: {name:16s} {rate:8.0f} tokens/s", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        **{f"ratio_{name}": medians["ours"] / rate for name, rate in medians.items() if name != "ours"},
        "tokens_per_second": medians,
        "losses": losses,
        "device": bench.precision.device,
        "dtype": bench.precision.dtype,
        "threads": torch.get_num_threads(),
        "examples_per_step": bench.examples,
        "rounds": given.rounds,
        "steps": given.steps,
        "dataset": given.dataset,
        "clock": given.clock,
    }
    if given.json:
        print(json.dumps({key: _rounded(value) for key, value in result.items()}))
        return
    for name, value in medians.items():
        print(f"{name:16s} {value:8.0f} tokens/s   loss {losses['before']:.4f} -> {losses[name]:.4f}")
    for key in result:
        if key.startswith("ratio_"):
            print(f"{key:22s} {result[key]:.2f}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
