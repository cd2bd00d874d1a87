"""Federated runs of a tiny language model on the home that the fixture `place` makes: configs, trainers, runs."""

from pathlib import Path
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.runs import Run, RunStore


def config_of(place: Path, strategy: str, **federated: Any) -> RunConfig:
    section = {"strategy": strategy, "clients": 2, "rounds": 2, "local_steps": 3, "partition": "topic", "score_rows": 2}
    training = {"batch_tokens": 64, "precision": "float32", "learning_rate": 0.01, "seed": 3}
    return RunConfig.parse(
        {
            "model": {"source": str(place / "base")},
            "data": {"dataset": "people", "max_length": 64},
            "variant": {"name": "lora", "rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "down_proj"]},
            "training": training,
            "federated": section | federated,
        }
    )


def make_trainer(place: Path, config: RunConfig) -> Any:
    from lora_playground.data.catalogue import get_dataset
    from lora_playground.federated.local import LocalTrainer
    from lora_playground.federated.preparation import prepare_clients
    from lora_playground.models.loading import load_base

    base = load_base(config.model, device="cpu", dtype="float32")
    data = get_dataset("people", place / "home")
    held = prepare_clients(base.tokenizer, data, config, embedded=False)
    return LocalTrainer(
        base, config, held.examples, validation=held.shared.validation, test=data.test, metric="contains"
    )


def new_run(place: Path, strategy: str, **federated: Any) -> Run:
    return RunStore(place / "home").create(config_of(place, strategy, **federated))
