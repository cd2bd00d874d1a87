"""A federated run as a job: phases, folder and result as for any run, with rounds of clients in place of training.

It knows the phases of an execution and the federated package, but no single strategy.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_playground.analysis.update import Update
from lora_playground.config import FederatedConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.errors import TrainingError
from lora_playground.federated import checkpoint
from lora_playground.federated.aggregation import Party
from lora_playground.federated.clients import global_updates, save_clients, summary, write_adapter
from lora_playground.federated.config import check as check_federated
from lora_playground.federated.config import client_ranks
from lora_playground.federated.preparation import ClientData, prepare_clients
from lora_playground.federated.rounds import Emit, State
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies.base import Strategy
from lora_playground.jobs.admission import check
from lora_playground.jobs.execution import Event, Execution, load_pristine
from lora_playground.jobs.failures import Stopped
from lora_playground.models.precision import probe
from lora_playground.training import TrainOutcome

if TYPE_CHECKING:
    from lora_playground.federated.local import LocalTrainer


@dataclass
class _Federation:
    """What the rounds of one attempt need.

    Attributes:
        who: the parties by name. planned: expected steps of all clients together, less those of clients that drop out.
        state: the server's state; changed by every round.
    """

    trainer: LocalTrainer
    strategy: Strategy
    who: dict[str, Party]
    data: ClientData
    planned: int
    state: State


@dataclass
class FederatedExecution(Execution):
    """One attempt at a federated run."""

    state: State | None = field(default=None, init=False)

    @property
    def federated(self) -> FederatedConfig:
        """The config's federated section."""
        assert self.config.federated is not None
        return self.config.federated

    def load(self) -> tuple[Any, Any]:
        """(trainer on the base model, the parties with their examples and the state after the last whole round)."""
        from lora_playground.federated.local import LocalTrainer

        config = self.config
        for text in check(config, self.home):
            self.report({"type": "message", "level": "warning", "text": text})
        strategy = check_federated(config)
        base = load_pristine(config.model, config.training.precision)
        self.check_stop()
        dataset = get_dataset(config.data.dataset, self.home)
        data = prepare_clients(base.tokenizer, dataset, config, config.model.embedded)
        shared = data.shared
        self.tell_about(shared)
        judged = shared.validation, dataset.test, dataset.card.metric
        trainer = LocalTrainer(
            base, config, data.examples, shared.rehearsal, shared.share, *judged, should_stop=self.should_stop
        )
        ranks = client_ranks(config)
        who = parties(ranks, [len(examples) for examples in data.examples], trainer)
        self.report({"type": "partition", **data.partition.bars(), "ranks": ranks})
        state = checkpoint.load_state(self.run.checkpoints)
        if state is None or state.server.round > self.federated.rounds or set(state.since) != set(who):
            state = begin(strategy, who, trainer, config.training.seed)
        self.state = state
        each = sum(trainer.steps(k) for k, party in enumerate(who.values()) if party.examples > 0)
        planned = max(1, round(each * self.federated.rounds * (1.0 - self.federated.drop_out)))
        return trainer, _Federation(trainer, strategy, who, data, planned, state)

    def train(self, model: Any, plan: Any) -> TrainOutcome:
        """Plays the remaining rounds. A stop loses at most the current round."""
        federation: _Federation = plan
        trainer, state = federation.trainer, federation.state
        about = self._plan_event(federation)
        clock = _Clock(self.report, federation.planned, state.step)
        self.report(about)
        base_loss = trainer.base_loss()
        if state.server.round == 0:
            # Judges the server's start, which is the base itself for all strategies but Fed-SB.
            self.report({"type": "round", "round": 0, "step": 0, **trainer.judge(state.server)})

        def keep(state: State) -> None:
            checkpoint.save_state(state, self.run.checkpoints)
            self.report({"type": "checkpoint", "step": state.step})

        rounds, drop_out = self.federated.rounds, self.federated.drop_out
        ways = federation.strategy, federation.who, trainer
        if not simulate(*ways, state, rounds, drop_out, clock.pass_on, self.should_stop, keep):
            raise Stopped(f"The run was stopped in round {state.server.round + 1} of {rounds}.")
        if not state.last:
            raise TrainingError("No client delivered in any round, so nothing was learned; lower the drop-out rate.")
        losses = [loss for loss in state.history[-1].get("client_loss", {}).values() if math.isfinite(loss)]
        return TrainOutcome(
            steps=state.step,
            planned=federation.planned,
            stopped=False,
            tokens=state.tokens,
            tokens_per_second=clock.tokens_per_second,
            seconds=clock.elapsed,
            final_loss=sum(losses) / len(losses) if losses else float("nan"),
            losses=[],
            validation_start=base_loss,
            validation_end=state.history[-1].get("loss"),
            trainable_parameters=about["trainable_parameters"],
            total_parameters=about["total_parameters"],
            peak_memory_bytes=0,
        )

    def save(self, model: Any) -> list[Update]:
        """The global update and its adapter, and each client's own update beside them."""
        assert self.state is not None
        model.close()
        save_clients(self.run, self.state)
        updates = global_updates(self.state)
        return self.keep(updates, lambda folder: write_adapter(updates, folder, self.config.model.source))

    def extra(self) -> dict[str, Any]:
        """The `federated` section of the result."""
        assert self.state is not None
        return {"federated": summary(self.state)}

    def _plan_event(self, federation: _Federation) -> Event:
        trainer, shared = federation.trainer, federation.data.shared
        base = trainer.base
        return {
            "type": "plan",
            "steps": federation.planned,
            "start_step": federation.state.step,
            "trainable_parameters": federation.strategy.trained_numbers(federation.state.server.factors),
            "total_parameters": sum(parameter.numel() for parameter in base.model.parameters()),
            "tokens_per_step": self.config.training.batch_tokens,
            "precision": str(base.dtype).removeprefix("torch."),
            "threads": probe("cpu").threads if base.device.type == "cpu" else 0,
            "device": str(base.device),
            "modules": [[name, *shape] for name, shape in trainer.shapes().items()],
            "rows": {"train": len(federation.data.rows), "validation": len(shared.validation)},
            "truncated": shared.truncated,
        }


class _Clock:
    """Reports events with the time left, estimated from the steps of all clients."""

    def __init__(self, report: Emit, planned: int, done: int) -> None:
        self.report, self.planned, self.start = report, planned, done
        self.began = time.monotonic()
        self.tokens_per_second = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since this attempt's rounds began."""
        return time.monotonic() - self.began

    def pass_on(self, event: Event) -> None:
        """Reports an event: a loss with `eta` for the whole run, a round followed by its loss as a validation."""
        if event["type"] == "loss":
            last = event["steps"][-1] if event["steps"] else self.start
            self.tokens_per_second = event.get("tokens_per_second") or self.tokens_per_second
            done = max(1, last - self.start)
            event = event | {"eta": round(max(0, self.planned - last) * self.elapsed / done, 1)}
        self.report(event)
        if event["type"] == "round" and event.get("loss") is not None:
            self.report({"type": "validation", "step": event["step"], "loss": event["loss"]})
