"""Trains clients' factors on one base model that they share in memory, and evaluates the global model.

The only module of this package that computes with torch. It knows PEFT's LoRA layer, the training loop and the decoder;
no strategy, no network and no run folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from lora_playground import evaluation
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import answer_of, prompt_of
from lora_playground.data.encoding import Example
from lora_playground.data.packing import Batch, pack, row_length
from lora_playground.errors import TrainingError
from lora_playground.federated.pairs import Pair
from lora_playground.federated.rounds import Emit, local_seed
from lora_playground.federated.simulation import Trained
from lora_playground.federated.strategies.base import Factor, Factors, Server
from lora_playground.models.decoding import Decoder
from lora_playground.models.linear import oriented
from lora_playground.models.loading import Base
from lora_playground.models.prompts import can_be_asked
from lora_playground.training import TrainPlan
from lora_playground.training.loop import train
from lora_playground.training.loss import PackedLoss, mean_loss
from lora_playground.variants import get_variant
from lora_playground.variants.base import Context
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers
from lora_playground.variants.targets import linear_shapes, select

VALIDATION_BATCHES = 4
GRADIENT_EXAMPLES = 50
LONGEST_ANSWER = 128


class LocalTrainer:
    """The simulation's Trainer for a causal language model.

    Args:
        base: pristine. Its weights are changed while this object is in use; `close` restores them.
        config: of the federated run.
        clients: each client's examples. rehearsal: examples that every client mixes in; share: their share of tokens.
        validation: examples for the global loss. test, metric: rows that the global model answers, and their metric.
        threads: to train with; 0 chooses a number.
    """

    def __init__(
        self,
        base: Base,
        config: RunConfig,
        clients: Sequence[Sequence[Example]],
        rehearsal: Sequence[Example] = (),
        share: float = 0.0,
        validation: Sequence[Example] = (),
        test: Sequence[dict[str, Any]] = (),
        metric: str = "",
        should_stop: Callable[[], bool] = lambda: False,
        threads: int = 0,
    ) -> None:
        assert config.federated is not None
        self.base, self.config, self.federated = base, config, config.federated
        self.clients = [list(examples) for examples in clients]
        self.rehearsal, self.share = list(rehearsal), share
        self.validation, self.test, self.metric = list(validation), list(test), metric
        self.should_stop, self.threads = should_stop, threads
        self.variant = get_variant(config.variant.name)
        self.pad = int(base.tokenizer.pad_token_id)
        self._shapes = select(linear_shapes(base.model), getattr(config.variant, "target_modules", "all-linear"))
        self._model: Any = None
        self._rank = 0
        self._pristine: dict[str, torch.Tensor] = {}
        self._merged: Mapping[str, Pair] = {}
        self._batches: list[Batch] | None = None
        self._scalings: dict[int, float] = {}

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        return self._shapes

    def scaling(self, rank: int) -> float:
        """The variant's scaling s for this rank."""
        if rank not in self._scalings:
            self._attach(rank)
            self._scalings[rank] = float(next(iter(self._layers().values())).scaling[ADAPTER])
        return self._scalings[rank]

    def steps(self, client: int) -> int:
        """Local optimiser steps of a client in a round: as configured, or those of the configured local epochs."""
        if self.federated.local_epochs is None:
            return self.federated.local_steps
        tokens = sum(len(example.ids) for example in self.clients[client]) / (1.0 - self.share)
        return max(1, round(self.federated.local_epochs * tokens / self.config.training.batch_tokens))

    def train(
        self, client: int, factors: Factors, merged: Mapping[str, Pair], parts: tuple[str, ...], round_: int, emit: Emit
    ) -> Trained:
        """See `simulation.Trainer.train`. If the loss is not finite, the returned factors are NaN, and the server
        leaves them out."""
        some = next(iter(factors.values()))
        model = self._attach(some.rank)
        self._set_base(merged)
        self._load(factors, parts)
        seed = local_seed(self.config.training.seed, round_, client)
        training = self.config.training.model_copy(
            update={"steps": self.steps(client), "seconds": None, "seed": seed, "schedule": "constant"}
        )
        plan = TrainPlan(
            training,
            self.variant,
            self.clients[client],
            rehearsal=self.rehearsal,
            pad=self.pad,
            learning_rate=training.learning_rate or self.variant.rate(self.config.model.source, training.optimiser),
            rehearsal_share=self.share,
            on_spectra=False,
            fused="R" not in parts,
            threads=self.threads,
        )
        try:
            outcome = train(model, plan, emit, self.should_stop)
        except TrainingError as error:
            if "no longer a number" not in str(error):
                raise
            emit({"type": "message", "level": "warning", "text": f"client {client + 1}: {error}"})
            broken = {name: _with_nan(factor, parts) for name, factor in factors.items()}
            return Trained(broken, float("nan"), self.steps(client))
        finally:
            trained = self._read(factors, parts)
            self._unparametrise()
        return Trained(trained, outcome.final_loss, outcome.steps, outcome.tokens, outcome.stopped)

    def gradients(self, client: int) -> dict[str, np.ndarray]:
        """∇W (out, in) of the mean loss on up to 50 of a client's examples, on the pristine base, for each module."""
        self._detach()
        self._set_base({})
        modules = {name: self.base.model.get_submodule(name) for name in self._shapes}
        loss = PackedLoss(self.base.model, torch.float32)
        batches = self._packed(self.clients[client][:GRADIENT_EXAMPLES], loss.solo)
        parameters = [module.weight for module in modules.values()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            learned = max(1, sum(batch.learned for batch in batches))
            for batch in batches:
                (loss.loss_sum(loss.put(batch)) / learned).backward()
            found = {}
            for name, module in modules.items():
                found[name] = oriented(module, module.weight.grad).float().cpu().numpy()
            return found
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None

    def judge(self, server: Server) -> dict[str, float | None]:
        """`loss` on the validation examples and `score` on the first test rows; None if there are no such rows."""
        rank = next(iter(server.factors.values())).rank
        model = self._attach(rank)
        self._set_base(server.merged_total())
        self._load({m: Factor(_left(f), f.A, f.s) for m, f in server.factors.items()}, ())
        score = self._score(model)
        return {"loss": self._loss(model), "score": None if score is None else round(score, 4)}

    def base_loss(self) -> float | None:
        """Loss of the unchanged base on the validation examples; None if there are none."""
        self._detach()
        self._set_base({})
        return self._loss(self.base.model)

    def close(self) -> None:
        """Removes the adapter and restores the pristine weights."""
        self._detach()
        self._set_base({})

    # --- the model ------------------------------------------------------------------------------------------------

    def _attach(self, rank: int) -> Any:
        """The base with LoRA layers of this rank; attached layers are reused if they have this rank."""
        if self._model is None or self._rank != rank:
            self._detach()
            config = self.config.variant.model_copy(update={"rank": rank})
            context = Context(self.federated.local_steps, self.config.training.seed, [], self.base.bits)
            self._model, self._rank = self.variant.attach(self.base.model, config, context), rank
        return self._model

    def _detach(self) -> None:
        if self._model is not None:
            self.base.model = self._model.unload()
            self.base.model.eval().requires_grad_(False)
            self._model, self._rank = None, 0

    def _layers(self) -> dict[str, Any]:
        return dict(tuner_layers(self._model))

    def _weights(self) -> dict[str, torch.Tensor]:
        """{module: frozen weight (out, in)} of all adapted modules, with or without LoRA layers attached."""
        if self._model is not None:
            return {name: oriented(layer.base_layer) for name, layer in self._layers().items()}
        return {name: oriented(self.base.model.get_submodule(name)) for name in self._shapes}

    def _set_base(self, merged: Mapping[str, Pair]) -> None:
        """Sets the base to W + B·A of these pairs, from the pristine W each time, so that rounding does not add up."""
        if merged is self._merged or not (merged or self._merged):
            return
        with torch.no_grad():
            for name, weight in self._weights().items():
                if name not in self._pristine:
                    self._pristine[name] = weight.detach().cpu().clone()
                pristine = self._pristine[name].to(weight.device)
                if name not in merged:
                    weight.copy_(pristine)
                    continue
                left, right = (torch.from_numpy(np.asarray(p, np.float32)).to(weight.device) for p in merged[name])
                weight.copy_(pristine.float() + left @ right)
        self._merged = merged

    def _load(self, factors: Factors, parts: tuple[str, ...]) -> None:
        """Copies factors into the layers and makes only `parts` trainable. A core R is trained as a parametrisation of
        lora_B."""
        self._unparametrise()
        with torch.no_grad():
            for name, layer in self._layers().items():
                A, B, factor = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER], factors[name]
                A.weight.copy_(_tensor(factor.A, A.weight))
                A.weight.requires_grad_("A" in parts)
                B.weight.requires_grad_("B" in parts)
                if factor.R is None:
                    B.weight.copy_(_tensor(factor.B, B.weight))
                    continue
                core = _Core(_tensor(factor.B, B.weight))
                parametrize.register_parametrization(B, "weight", core, unsafe=True)
                original = B.parametrizations.weight.original
                original.copy_(_tensor(factor.R, original))
                original.requires_grad_("R" in parts)

    def _unparametrise(self) -> None:
        for layer in self._layers().values() if self._model is not None else ():
            B = layer.lora_B[ADAPTER]
            if parametrize.is_parametrized(B):
                parametrize.remove_parametrizations(B, "weight", leave_parametrized=True)

    def _read(self, factors: Factors, parts: tuple[str, ...]) -> Factors:
        """The factors with the trained parts read from the layers."""
        trained: Factors = {}
        for name, layer in self._layers().items():
            A, B = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
            tensors = {"A": A.weight, "B": B.parametrizations.weight.original if "R" in parts else B.weight}
            tensors["R"] = tensors["B"]
            fresh: dict[str, Any] = {part: _array(tensors[part]) for part in parts}
            trained[name] = factors[name]._replace(**fresh)
        return trained

    # --- judging --------------------------------------------------------------------------------------------------

    def _packed(self, examples: Sequence[Example], solo: bool = False) -> list[Batch]:
        tokens = self.config.training.batch_tokens
        length = row_length(examples, tokens)
        return pack(examples, length, max(1, tokens // length), self.pad, solo)

    def _loss(self, model: Any) -> float | None:
        if not self.validation:
            return None
        loss = PackedLoss(model, self.base.dtype)
        if self._batches is None:
            self._batches = self._packed(self.validation, loss.solo)[:VALIDATION_BATCHES]
        value = mean_loss(loss, self._batches)
        return round(value, 5) if value is not None and np.isfinite(value) else None

    def _score(self, model: Any) -> float | None:
        asked = (row for row in self.test if row.get("messages"))
        usable = (row for row in asked if can_be_asked(self.base.tokenizer, prompt_of(row)))
        rows = list(itertools.islice(usable, self.federated.score_rows))
        if not rows or self.metric not in evaluation.METRICS:
            return None
        decoder = Decoder(model, self.base.tokenizer)
        references = [answer_of(row) for row in rows]
        longest = max(len(self.base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in references)
        limit = min(LONGEST_ANSWER, longest * 3 // 2 + 8)

        def generate(conversations: list[Any]) -> list[str]:
            return decoder.generate(conversations, max_new_tokens=limit, should_stop=self.should_stop)

        result = evaluation.evaluate(generate, rows, self.metric, batch=len(rows))
        return float(result["score"])


class _Core(nn.Module):
    """A parametrisation of lora_B: weight = B·R with B frozen and orthonormal."""

    def __init__(self, B: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("B", B)
        self.B: torch.Tensor

    def forward(self, R: torch.Tensor) -> torch.Tensor:
        return self.B @ R

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return self.B.T @ weight


def _with_nan(factor: Factor, parts: tuple[str, ...]) -> Factor:
    nothing: dict[str, Any] = {part: np.full_like(getattr(factor, part), np.nan) for part in parts}
    return factor._replace(**nothing)


def _left(factor: Factor) -> np.ndarray:
    return factor.B if factor.R is None else factor.B @ factor.R


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(like.device, like.dtype)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()
