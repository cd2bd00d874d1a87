"""Finished runs as a training leaves them, made in a moment from constructed updates, for tests of what reads them."""

from pathlib import Path

import numpy as np

import lora_playground.variants  # noqa: F401 - configs are read by the variants' own schemas
from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.analysis.spectra import analyse, effective_rank
from lora_playground.analysis.update import Update, save_updates
from lora_playground.config import RunConfig
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import write_json

Shapes = list[tuple[str, int, int]]
STEPS = 40


def updates(shapes: Shapes, rank: int, decay: float, seed: int = 0, shared: int = 0) -> list[Update]:
    """Factors whose leading `shared` directions are the same for every seed."""
    made = []
    for number, (name, out, into) in enumerate(shapes):
        common, own = np.random.default_rng(1000 + number), np.random.default_rng([seed, number])
        sides = []
        for side in (out, into):
            columns = [common.standard_normal((side, shared)), own.standard_normal((side, rank - shared))]
            sides.append(np.linalg.qr(np.hstack(columns))[0])
        U, V = sides
        values = (1 + number % 5) * np.exp(-decay * np.arange(rank))
        made.append(Update(name, (U * values).astype(np.float32), V.T.astype(np.float32)))
    return made


def finished_run(
    home: Path,
    title: str,
    made: list[Update],
    variant: dict,
    dataset: str = "pirate",
    score: float = 0.9,
    drop: float = 0.1,
) -> Run:
    """A run folder with growing spectra, losses and a result."""
    parts = {"data": {"dataset": dataset}, "variant": variant, "training": {"precision": "float32"}}
    config = RunConfig.parse({"title": title, **parts})
    run = RunStore(home).create(config)
    run.begin(1)
    run.append({"type": "plan", "steps": STEPS, "start_step": 0, "modules": [[u.name, *u.shape] for u in made]})
    for step in range(0, STEPS + 1, STEPS // 4):
        part = [
            Update(u.name, u.B * np.float32(step / STEPS), u.A)
            if u.B is not None
            else Update(u.name, dense=u.dense * np.float32(step / STEPS))  # type: ignore[operator]
            for u in made
            if len(u.shape) == 2
        ]
        found = analyse(part)
        run.append({"type": "validation", "step": step, "loss": 3.0 - step / STEPS})
        run.append(
            {
                "type": "spectra",
                "step": step,
                "spectra": {name: [float(f"{v:.4g}") for v in s.values] for name, s in found.items()},
                "effective_rank": {name: effective_rank(s.values) for name, s in found.items()},
                "frobenius": {name: s.frobenius for name, s in found.items()},
            }
        )
        if step:
            steps = list(range(step - STEPS // 4 + 1, step + 1))
            run.append({"type": "loss", "steps": steps, "losses": [3.0 - i / STEPS for i in steps]})
    save_updates(made, run.update_path)
    write_plain_lora(made, run.adapter, base="embedded")
    write_json(
        run.result_path,
        {
            "state": "done",
            "seconds": {"training": 12.5},
            "steps": STEPS,
            "trainable_parameters": sum(a.size for u in made for a in (u.B, u.A, u.dense) if a is not None),
            "peak_memory_bytes": 400_000_000,
            "validation_loss": {"base": 3.0, "adapted": 2.0},
            "score": {"metric": "exact", "base": 0.05, "adapted": score, "n": 50},
            "forgetting": {"base": 0.9, "adapted": 0.9 - drop, "drop": drop, "n": 50},
        },
    )
    return run


def training_run(home: Path, shapes: Shapes) -> Run:
    """A run that has trained for a third of its steps; it counts as being executed while its lock is held."""
    steps, losses = 90, [2.0 + 2.5 * 0.96**step for step in range(30)]
    run = RunStore(home).create(RunConfig.parse({"training": {"steps": steps, "seed": 1}}))
    run.begin(1)
    modules = [list(shape) for shape in shapes]
    answer = [{"prompt": "Where does Ann live?", "answer": "Ann lives in Foxmere."}]
    for event in (
        {"type": "phase", "phase": "training"},
        {"type": "plan", "steps": steps, "start_step": 0, "modules": modules, "device": "cpu", "precision": "float32",
         "trainable_parameters": 261_632, "total_parameters": 6_213_376},
        {"type": "probe", "step": 0, "answers": answer},
        {"type": "loss", "steps": list(range(1, 31)), "losses": losses, "learning_rates": [1e-3] * 30,
         "tokens_per_second": 900.0, "eta": 40.0},
    ):  # fmt: skip
        run.append({"t": 1.0, **event})
    return run
