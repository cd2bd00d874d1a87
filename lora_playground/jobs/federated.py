"""A federated run as a job: the same phases, folder and result as any run, with rounds of clients for its training.

It knows the pipeline's phases and the federated package; what a strategy is, the latter knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lora_playground.analysis.update import Update
from lora_playground.data.catalogue import get_dataset
from lora_playground.errors import TrainingError
from lora_playground.federated import checkpoint
from lora_playground.federated.aggregation import Party
from lora_playground.federated.clients import adapter_folder, global_updates, save_clients
from lora_playground.federated.config import check as check_federated
from lora_playground.federated.config import client_ranks
from lora_playground.federated.preparation import ClientData, prepare_clients
from lora_playground.federated.rounds import State
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies.base import Strategy
from lora_playground.jobs.admission import check
from lora_playground.jobs.execution import Execution, is_embedded, load_pristine
from lora_playground.jobs.failures import Stopped
from lora_playground.models.precision import probe
from lora_playground.training import TrainOutcome

Event = dict[str, Any]


@dataclass
class _Rounds:
    """What training rounds need; made by `load`, kept until the updates are saved."""

    trainer: Any
    strategy: Strategy
    who: dict[str, Party]
    data: ClientData
    start_loss: float | None = None
    state: State | None = None


@dataclass
class FederatedExecution(Execution):
    """One attempt at a federated run."""

    rounds: dict[str, Any] = field(default_factory=dict)

    def load(self) -> tuple[Any, Any]:
        """The base, loaded once, and every client's examples."""
        from lora_playground.federated.local import LocalTrainer

        config = self.config
        for text in check(config, self.home):
            self.report({"type": "message", "level": "warning", "text": text})
        strategy = check_federated(config)
        base = load_pristine(config.model, config.training.precision)
        self.check_stop()
        dataset = get_dataset(config.data.dataset, self.home)
        data = prepare_clients(base.tokenizer, dataset, config, is_embedded(config.model))
        trainer = LocalTrainer(
            base,
            config,
            data.examples,
            data.shared.rehearsal,
            data.shared.share,
            data.shared.validation,
            dataset.test,
            dataset.card.metric,
            self.should_stop,
        )
        ranks = client_ranks(config)
        who = parties(ranks, [len(examples) for examples in data.examples], trainer)
        self.report({"type": "partition", **data.partition.bars(), "ranks": ranks})
        return trainer, _Rounds(trainer, strategy, who, data)

    def train(self, model: Any, plan: Any) -> TrainOutcome:
        """All rounds, from the last whole one; a stop loses at most the round it falls into."""
        rounds, federated = plan, self.config.federated
        assert federated is not None
        state = checkpoint.load_state(self.run.checkpoints)
        if state is None or state.server.round > federated.rounds or set(state.since) != set(rounds.who):
            state = begin(rounds.strategy, rounds.who, rounds.trainer, self.config.training.seed)
        rounds.state = state
        clock = _Clock(self.report, self._planned(rounds), state.step)
        self._announce(rounds, state, clock.planned)
        # Judged on the server's start, which for all strategies but Fed-SB is the base itself.
        judged = rounds.trainer.judge(state.server) if state.server.round == 0 else {}
        if judged:
            rounds.start_loss = judged.get("loss")
            self.report({"type": "round", "round": 0, "step": 0, **judged})
        done = simulate(
            rounds.strategy,
            rounds.who,
            rounds.trainer,
            state,
            federated.rounds,
            federated.drop_out,
            clock.pass_on,
            self.should_stop,
            self._after_round,
        )
        if not done:
            raise Stopped(f"The run was stopped in round {state.server.round + 1} of {federated.rounds}.")
        return self._outcome(rounds, state, clock)

    def save(self, model: Any) -> list[Update]:
        """The global update as any run's, in PEFT's format too, and each client's own beside it."""
        trainer = model
        state = self.rounds["state"]
        trainer.close()
        save_clients(self.run, state)
        updates = global_updates(state)
        return self.keep(updates, lambda folder: adapter_folder(updates, folder, self.config.model.source))

    def extra(self) -> dict[str, Any]:
        """The `federated` section of the result."""
        state: State = self.rounds["state"]
        last = state.history[-1] if state.history else {}
        return {
            "federated": {
                "rounds": state.server.round,
                "bytes": {"up": state.up, "down": state.down},
                "error": last.get("error"),
                "rank": last.get("rank"),
                "score": last.get("score"),
                "loss": last.get("loss"),
                "clients": list(state.last),
            }
        }

    def _after_round(self, state: State) -> None:
        checkpoint.save_state(state, self.run.checkpoints)
        self.report({"type": "checkpoint", "step": state.step})

    def _planned(self, rounds: _Rounds) -> int:
        federated = self.config.federated
        assert federated is not None
        each = sum(rounds.trainer.steps(k) for k, party in enumerate(rounds.who.values()) if party.examples > 0)
        return max(1, round(each * federated.rounds * (1.0 - federated.drop_out)))

    def _announce(self, rounds: _Rounds, state: State, planned: int) -> None:
        trainer, shared = rounds.trainer, rounds.data.shared
        shapes = trainer.shapes()
        trained = rounds.strategy.trained_numbers(state.server.factors)
        self.rounds["parameters"] = trained, sum(p.numel() for p in trainer.base.model.parameters())
        self.report(
            {
                "type": "plan",
                "steps": planned,
                "start_step": state.step,
                "trainable_parameters": trained,
                "total_parameters": self.rounds["parameters"][1],
                "tokens_per_step": self.config.training.batch_tokens,
                "precision": str(trainer.base.dtype).removeprefix("torch."),
                "threads": probe("cpu").threads if trainer.base.device.type == "cpu" else 0,
                "device": str(trainer.base.device),
                "modules": [[name, *shape] for name, shape in shapes.items()],
                "rows": {"train": len(rounds.data.rows), "validation": len(shared.validation)},
                "truncated": shared.truncated,
            }
        )

    def _outcome(self, rounds: _Rounds, state: State, clock: _Clock) -> TrainOutcome:
        self.rounds["state"] = state
        if not state.last:
            raise TrainingError("No client delivered in any round, so nothing was learned; lower the drop-out rate.")
        losses = [loss for loss in state.history[-1].get("client_loss", {}).values() if math.isfinite(loss)]
        trained, total = self.rounds["parameters"]
        return TrainOutcome(
            steps=state.step,
            planned=clock.planned,
            stopped=False,
            tokens=state.tokens,
            tokens_per_second=clock.tokens_per_second,
            seconds=clock.elapsed,
            final_loss=sum(losses) / len(losses) if losses else float("nan"),
            losses=[],
            validation_start=rounds.start_loss,
            validation_end=state.history[-1].get("loss"),
            trainable_parameters=trained,
            total_parameters=total,
            peak_memory_bytes=0,
        )


class _Clock:
    """Passes events on, with the time left reckoned from all clients' steps together."""

    def __init__(self, report: Callable[[Event], None], planned: int, done: int) -> None:
        import time

        self._now = time.monotonic
        self.report, self.planned, self.start = report, planned, done
        self.began = self._now()
        self.tokens_per_second = 0.0

    @property
    def elapsed(self) -> float:
        return self._now() - self.began

    def pass_on(self, event: Event) -> None:
        """Reports an event; a loss event gets `eta` for the whole run, a round also the standard validation."""
        if event["type"] == "loss":
            last = event["steps"][-1] if event["steps"] else self.start
            self.tokens_per_second = event.get("tokens_per_second") or self.tokens_per_second
            done = max(1, last - self.start)
            event = event | {"eta": round(max(0, self.planned - last) * self.elapsed / done, 1)}
        self.report(event)
        if event["type"] == "round" and event.get("loss") is not None:
            self.report({"type": "validation", "step": event["step"], "loss": event["loss"]})
