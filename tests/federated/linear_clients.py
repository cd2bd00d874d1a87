"""A stand-in for a language model: linear regression with factored updates, trained by plain gradient descent in NumPy.

It implements the simulation's Trainer, so that rounds, messages, drop-out and resuming can be tested in milliseconds.
"""

from collections.abc import Mapping

import numpy as np

from lora_playground.federated.pairs import Pair
from lora_playground.federated.rounds import Emit, local_seed
from lora_playground.federated.simulation import Trained
from lora_playground.federated.strategies.base import Factors, Server

SHAPES = {"layers.0.q": (12, 16), "layers.10.up": (20, 8), "layers.2.up": (20, 8)}


class LinearTrainer:
    """Clients hold (x, y) with y = (W + target_k)x; s = 16/r, as alpha 16 gives.

    Args:
        clients: how many. steps: local steps. spoil: {client: {round}} where a client answers NaN, cut: where it
            answers with a row too few.
    """

    def __init__(
        self,
        clients: int,
        steps: int = 12,
        spoil: dict[int, set[int]] | None = None,
        seed: int = 0,
        cut: dict[int, set[int]] | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.common = {
            m: 0.3 * rng.standard_normal((o, 3)) @ rng.standard_normal((3, i)) for m, (o, i) in SHAPES.items()
        }
        self.targets = [
            {m: self.common[m] + 0.1 * rng.standard_normal(shape) for m, shape in SHAPES.items()}
            for _ in range(clients)
        ]
        self.steps, self.spoil, self.cut, self.seed = steps, spoil or {}, cut or {}, seed
        self.calls: list[tuple[int, int, tuple[str, ...]]] = []

    def shapes(self) -> Mapping[str, tuple[int, int]]:
        return SHAPES

    def scaling(self, rank: int) -> float:
        return 16.0 / rank

    def gradients(self, client: int) -> dict[str, np.ndarray]:
        return {m: -target for m, target in self.targets[client].items()}

    def train(
        self, client: int, factors: Factors, merged: Mapping[str, Pair], parts: tuple[str, ...], round_: int, emit: Emit
    ) -> Trained:
        self.calls.append((round_, client, parts))
        rng = np.random.default_rng(local_seed(self.seed, round_, client))
        trained: Factors = {}
        losses = []
        for module, factor in factors.items():
            B, A, R = (None if v is None else np.array(v, dtype=np.float32) for v in (factor.B, factor.A, factor.R))
            left, right = merged.get(module, (np.zeros((B.shape[0], 1)), np.zeros((1, A.shape[1]))))
            gap = (self.targets[client][module] - left @ right).astype(np.float32)
            for _ in range(self.steps):
                middle = np.eye(A.shape[0], dtype=np.float32) if R is None else R
                missing = gap - factor.s * B @ middle @ A
                size = max(1e-2, float(np.sum(A * A)), float(np.sum(B * B)))
                rate = np.float32(0.8 / (factor.s * size))
                noise = np.float32(1 + 0.01 * rng.standard_normal())
                step_B, step_A = rate * noise * missing @ (middle @ A).T, rate * noise * (B @ middle).T @ missing
                if "R" in parts:
                    R = R + np.float32(0.4 / factor.s) * noise * B.T @ missing @ A.T
                B = B + step_B if "B" in parts else B
                A = A + step_A if "A" in parts else A
            losses.append(float(np.mean(missing**2)))
            trained[module] = factor._replace(B=B, A=A, R=R)
        emit({"type": "loss", "steps": list(range(1, self.steps + 1)), "losses": [1.0] * self.steps})
        if round_ in self.spoil.get(client, ()):
            some = next(iter(trained))
            part = parts[0]
            trained[some] = trained[some]._replace(**{part: np.full_like(getattr(trained[some], part), np.nan)})
        if round_ in self.cut.get(client, ()):
            some = next(iter(trained))
            trained[some] = trained[some]._replace(**{parts[0]: getattr(trained[some], parts[0])[:-1]})
        return Trained(trained, float(np.mean(losses)), self.steps, 100 * self.steps)

    def judge(self, server: Server) -> dict[str, float | None]:
        errors = []
        for module in SHAPES:
            B, A = server.update(module)
            errors.append(np.mean((self.common[module] - B @ A) ** 2))
        return {"loss": float(np.mean(errors)), "score": None}
