"""A queue that finishes every run at once, with constructed updates and results, for tests of what plays lessons."""

from __future__ import annotations

import contextlib

import numpy as np

import lora_playground.variants  # noqa: F401 - configs are read by the variants' own schemas
from lora_playground.analysis.plain_lora import write_plain_lora
from lora_playground.analysis.update import Update, save_updates
from lora_playground.config import RunConfig
from lora_playground.errors import JobError, RunError
from lora_playground.jobs import truncation_curve
from lora_playground.jobs.job import Job
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json

SHAPES = [("model.layers.0.self_attn.q_proj", 256, 256), ("model.layers.0.mlp.down_proj", 256, 704)]


class Queue:
    """What the player uses of the supervisor. `clock` gives the time of a job's making."""

    def __init__(self, home, clock=lambda: 0.0) -> None:
        self.runs, self._clock = RunStore(home), clock
        self._jobs: dict[str, Job] = {}
        self._nonces: dict[tuple[str, str], str] = {}
        self.trained = 0

    def submit(self, config: RunConfig, owner: str = "", nonce: str | None = None, fresh: bool = False) -> Job:
        if nonce is not None and (owner, nonce) in self._nonces:
            return self.job(self._nonces[owner, nonce])
        run = self.runs.create(config)
        self._finish(run, config)
        self._jobs[run.id] = Job(run.id, owner, "done", 1, run.label, self._clock())
        if nonce is not None:
            self._nonces[owner, nonce] = run.id
        return self._jobs[run.id]

    def job(self, identity: str, owner: str | None = None) -> Job:
        if identity in self._jobs:
            return self._jobs[identity]
        return Job.of_run(self.runs.get(identity))

    def find(self, identity: str) -> Job | None:
        with contextlib.suppress(RunError):
            return self.job(identity)

    def jobs(self, owner: str | None = None) -> list[Job]:
        return [job for job in reversed(self._jobs.values()) if owner is None or job.owner == owner]

    def lose(self, identity: str) -> None:
        """A run that failed."""
        job = self._jobs[identity]
        self.runs.get(identity).result_path.unlink()
        self._jobs[identity] = Job(job.id, job.owner, "failed", 1, job.label, job.created, error_message="It failed.")

    def _finish(self, run, config: RunConfig) -> None:
        self.trained += 1
        rank = getattr(config.variant, "rank", 16)
        generator = np.random.default_rng([config.training.seed, self.trained])
        updates = []
        for name, out, into in SHAPES:
            values = np.exp(-0.5 * np.arange(rank))
            U = np.linalg.qr(generator.standard_normal((out, rank)))[0]
            V = np.linalg.qr(generator.standard_normal((into, rank)))[0]
            updates.append(Update(name, (U * values).astype(np.float32), V.T.astype(np.float32)))
        run.begin(1)
        run.append({"type": "loss", "steps": [1, 2, 3, 4], "losses": [4.0, 3.0, 2.0, 1.0]})
        by_topic = config.federated is not None and config.federated.partition == "topic"
        run.append({"type": "round", "round": 1, "step": 4, "error": 0.3 if by_topic else 0.05})
        save_updates(updates, run.update_path)
        write_plain_lora(updates, run.adapter, base="embedded")
        score = min(1.0, 0.2 + 0.05 * self.trained)
        strategy = config.federated.strategy if config.federated else ""
        federated = {
            "bytes": {"up": 10, "down": 90 if strategy in ("fedex", "flora") else 20},
            "rank": {"global": rank},
        }
        write_json(run.result_path, {
            "state": "done", "score": {"base": 0.0, "adapted": score, "gain": {"value": score}},
            "forgetting": {"drop": 0.3, "adapted": 0.7}, "final_loss": 1.0, "validation_loss": {"adapted": 1.5},
            "trainable_parameters": 1000 * rank, "adapter_bytes": 4000 * rank, "seconds": {"training": 1.0},
            "tokens_per_second": 1000.0, "federated": federated,
        })  # fmt: skip
        ks = truncation_curve.ladder(rank)
        points = {"k": ks, "score": [score * k / max(ks) for k in ks], "loss": [1.0] * len(ks), "done": True}
        write_json(run.folder / truncation_curve.FILE, points)


def refuse(*_args) -> None:
    """In the place of what must not be called."""
    raise JobError("no")
