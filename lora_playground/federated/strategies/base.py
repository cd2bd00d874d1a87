"""The base class of all strategies of federated low-rank adaptation: pure functions on NumPy factors.

It knows no single strategy, no model and no network; a message is a dict of named arrays. Convention: y = Wx,
ΔW = s·B·A with A (r, n) and B (m, r); Fed-SB has a third factor: ΔW = s·B·R·A.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from lora_playground.errors import ConfigError
from lora_playground.federated.pairs import Pair, bounded, is_wide, stack

Message = dict[str, np.ndarray]
"""Arrays that are sent: '<module>.B', '.A', '.R', and '<module>.base<round>.B', '.A' for a change of W in a round."""

PARTS = ("B", "A", "R")


class Factor(NamedTuple):
    """One module's factors: ΔW = s·B·A, or s·B·R·A if R is not None."""

    B: np.ndarray
    A: np.ndarray
    s: float
    R: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """r, the rows of A."""
        return int(self.A.shape[0])

    @property
    def pair(self) -> Pair:
        """(s·B[·R], A) in float64."""
        left = self.B.astype(np.float64)
        if self.R is not None:
            left = left @ self.R.astype(np.float64)
        return self.s * left, self.A.astype(np.float64)


Factors = dict[str, Factor]
"""Module name → its factors."""


@dataclass(frozen=True)
class Card:
    """The description of a strategy for people.

    Attributes:
        sentence: what it does, in one sentence.
        equation: LaTeX of the server's step.
        up, down: what is sent for each module in a round, in words, with the number of values.
        exact: whether the server's result equals Σ p_k s_k B_k A_k, in words.
        paper: 'Authors, title, year'. url: of the paper.
        notes: pitfalls, and choices that the paper leaves open.
    """

    sentence: str
    equation: str
    up: str
    down: str
    exact: str
    paper: str
    url: str
    notes: str = ""


@dataclass(frozen=True)
class Server:
    """The server's state between rounds.

    Attributes:
        round: number of finished rounds. seed: of all start values.
        factors: the global factors, at the greatest rank among the clients.
        merged: changes of the base so far, (round, {module: (B, A)}) with scaling folded into B.
        changed: the round in which each part ('B', 'A', 'R') last changed; 0 is the start.
    """

    round: int
    seed: int
    factors: Factors
    merged: tuple[tuple[int, dict[str, Pair]], ...] = ()
    changed: dict[str, int] = field(default_factory=lambda: {"B": 0, "A": 0})

    def update(self, module: str) -> Pair:
        """The global ΔW of a module against the pristine W: all merged changes and the present factors, stacked."""
        pairs = [change[module] for _, change in self.merged if module in change] + [self.factors[module].pair]
        return stack(pairs)

    def merged_total(self) -> dict[str, Pair]:
        """{module: all changes of the base so far as one stacked pair}; {} if there are none."""
        return _sums([change for _, change in self.merged])

    def folded(self, until: int) -> Server:
        """The same server with all base changes up to round `until` added up to one, of rank ≤ min(m, n) in every
        module."""
        old = [(round_, change) for round_, change in self.merged if round_ <= until]
        if len(old) < 2:
            return self
        total = {module: bounded(pair) for module, pair in _sums([change for _, change in old]).items()}
        return replace(self, merged=((old[-1][0], total), *self.merged[len(old) :]))

    def missed(self, since: int) -> bool:
        """Whether the changes after round `since`, without the newest, have together more rank than a full matrix."""
        changes = [change for round_, change in self.merged[:-1] if round_ > since]
        return any(is_wide(pair) for pair in _sums(changes).values())


@dataclass(frozen=True)
class Strategy:
    """A strategy. The default methods suit one whose server averages the parts that clients train.

    Attributes:
        name, label: such as 'fedit' and 'FedIT'. card: its description.
        exact: whether the aggregate equals the weighted mean of the clients' products up to rounding.
        heterogeneous: whether clients may have different ranks and scalings. why_equal: if not, the reason.
        start_travels: whether start values are sent; otherwise every client makes them from the shared seed.
        changes_base: whether the server's step changes W itself.
        needs_gradient: whether `start` needs the gradient of W on a few examples.
    """

    name: str
    label: str
    card: Card
    exact: bool = False
    heterogeneous: bool = False
    why_equal: str = ""
    start_travels: bool = False
    changes_base: bool = False
    needs_gradient: bool = False

    # Before the first round

    @property
    def first(self) -> int:
        """`since` of a client that has received nothing: 0 if it makes the start values itself, else −1."""
        return -1 if self.start_travels else 0

    def check(self, ranks: Sequence[int], scalings: Sequence[float] = ()) -> None:
        """Raises ConfigError if this strategy does not allow these ranks or scalings of clients."""
        if self.heterogeneous:
            return
        for field_, word, values in (("ranks", "rank", ranks), ("alpha", "scaling", scalings)):
            if values and max(values) - min(values) > 1e-9 * max(abs(value) for value in values):
                raise ConfigError(
                    f"federated.{field_}",
                    list(values),
                    f"{self.label} needs one {word} for all clients, because {self.why_equal}",
                )

    def start(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        s: float,
        seed: int,
        gradients: Mapping[str, np.ndarray] | None = None,
    ) -> Server:
        """The server before round 1, B=0 and A Kaiming uniform as LoRA starts.

        Args:
            shapes: (out, in) of every adapted module. rank: the greatest client rank. s: its scaling.
            gradients: ∇W of a few examples, (out, in) each, for strategies with `needs_gradient`.
        """
        return Server(0, seed, initial(shapes, rank, s, seed, 0))

    # The client's side

    def trained(self, round_: int) -> tuple[str, ...]:
        """Which parts a client trains in a round (from 1): of 'B', 'A', 'R'."""
        return ("B", "A")

    def trained_numbers(self, factors: Factors) -> int:
        """How many numbers a client with these factors trains in a round; the larger number of odd and even rounds."""
        return max(
            sum(getattr(factor, part).size for factor in factors.values() for part in self.trained(round_))
            for round_ in (1, 2)
        )

    def receive(self, held: Factors, message: Message, round_: int, seed: int) -> Factors:
        """The factors with which a client starts a round: its own, with those parts replaced that are in the message.

        Args:
            held: start values, or the factors after the last message that this client received.
        """
        fresh: Factors = {}
        for module, factor in held.items():
            parts: dict[str, Any] = {p: message[f"{module}.{p}"] for p in PARTS if f"{module}.{p}" in message}
            fresh[module] = factor._replace(**parts)
        return fresh

    def upload(self, trained: Factors, round_: int) -> Message:
        """What a client sends after training: the parts it trained, float32."""
        return {
            f"{module}.{part}": np.ascontiguousarray(getattr(factor, part), dtype=np.float32)
            for module, factor in trained.items()
            for part in self.trained(round_)
        }

    # The server's side

    def local(self, server: Server, rank: int, s: float) -> Factors:
        """The factors with which a client of this rank and scaling starts the next round; by default the server's."""
        return server.factors

    def download(self, server: Server, rank: int, s: float, since: int) -> Message:
        """What the server sends a client before a round.

        Args:
            since: the round whose result the client last received (0: the start values; −1: nothing). Newer parts and
                base changes are sent, so that a client that missed rounds catches up.
        """
        message: Message = {}
        mine = self.local(server, rank, s)
        for part in PARTS:
            if server.changed.get(part, since) > since:
                for module, factor in mine.items():
                    message[f"{module}.{part}"] = np.ascontiguousarray(getattr(factor, part), dtype=np.float32)
        for round_, change in server.merged:
            if round_ > since:
                for module, (B, A) in change.items():
                    message[f"{module}.base{round_}.B"] = np.ascontiguousarray(B, dtype=np.float32)
                    message[f"{module}.base{round_}.A"] = np.ascontiguousarray(A, dtype=np.float32)
        return message

    def open(self, server: Server, message: Message, rank: int, s: float) -> Factors:
        """A client's factors: the parts in its message, and the server's own for the rest.

        Raises:
            KeyError: a module is missing. ValueError: a shape is wrong, or a value is not finite.
        """
        opened: Factors = {}
        for module, known in self.local(server, rank, s).items():
            parts = {}
            for part in self.trained(server.round + 1):
                array = message[f"{module}.{part}"]
                expected = getattr(known, part).shape
                if array.shape != expected:
                    raise ValueError(f"sent {module}.{part} of shape {array.shape} instead of {expected}")
                if not np.isfinite(array).all():
                    raise ValueError(f"sent {module}.{part} with values that are not finite")
                parts[part] = array.astype(np.float64)
            opened[module] = known._replace(s=s, **parts)
        return opened

    def aggregate(self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float]) -> Server:
        """The server after a round; by default with the weighted means of the parts that the clients train.

        Args:
            clients: {client: {module: Factor}}, at least one, all valid. weights: p_k, which sum to 1.
        """
        return self.averaged(server, clients, weights, self.trained(server.round + 1))

    def idle(self, server: Server) -> Server:
        """The server after a round in which no client sent a message: only the number of the round changes."""
        return replace(server, round=server.round + 1)

    def averaged(
        self, server: Server, clients: Mapping[str, Factors], weights: Mapping[str, float], parts: Iterable[str]
    ) -> Server:
        """The server with these parts replaced by their weighted means."""
        parts = tuple(parts)
        factors = {
            module: factor._replace(
                **{
                    part: sum(weights[name] * getattr(clients[name][module], part) for name in clients)
                    for part in parts
                }
            )
            for module, factor in server.factors.items()
        }
        return self.advanced(server, factors, parts)

    def advanced(
        self,
        server: Server,
        factors: Factors,
        parts: Iterable[str],
        change: dict[str, Pair] | None = None,
    ) -> Server:
        """The server after a round, with new factors, of which `parts` have changed, and a change of the base or
        None."""
        round_ = server.round + 1
        merged = (*server.merged, (round_, change)) if change else server.merged
        changed = {**server.changed, **dict.fromkeys(parts, round_)}
        return replace(server, round=round_, factors=factors, merged=merged, changed=changed)


def initial(shapes: Mapping[str, tuple[int, int]], rank: int, s: float, seed: int, round_: int) -> Factors:
    """LoRA's start: B=0, A ~ U(−1/√n, 1/√n), which is Kaiming uniform with a=√5. A of a smaller rank has the first rows
    of A of a greater one, so parties of unequal rank need not send it."""
    factors: Factors = {}
    for module, (m, n) in shapes.items():
        A = generator(seed, round_, module).uniform(-1.0, 1.0, (rank, n)) / np.sqrt(n)
        factors[module] = Factor(np.zeros((m, rank)), A, s)
    return factors


def generator(seed: int, round_: int, module: str) -> np.random.Generator:
    """Random numbers for one module's start values; they depend on the arguments alone, not on the order of modules."""
    return np.random.default_rng([seed, round_, zlib.crc32(module.encode())])


def scaling_of(factors: Factors) -> float:
    """s, which all modules share."""
    return next(iter(factors.values())).s


def arrays_of(prefix: str, factors: Factors) -> dict[str, np.ndarray]:
    """{'<prefix>/<module>/<part>': array}, for files and for what a client stores between rounds."""
    return {
        f"{prefix}/{module}/{part}": getattr(factor, part)
        for module, factor in factors.items()
        for part in PARTS
        if getattr(factor, part) is not None
    }


def factors_of(prefix: str, arrays: Mapping[str, np.ndarray], s: float) -> Factors:
    """The factors of which `arrays_of` made these arrays."""
    modules = dict.fromkeys(key.split("/")[-2] for key in arrays if key.startswith(prefix + "/"))
    parts = {module: [arrays.get(f"{prefix}/{module}/{part}") for part in PARTS] for module in modules}
    return {module: Factor(B, A, s, R) for module, (B, A, R) in parts.items()}  # type: ignore[arg-type]


def shapes_of(factors: Factors) -> dict[str, tuple[int, int]]:
    """(out, in) of every module."""
    return {module: (factor.B.shape[0], factor.A.shape[1]) for module, factor in factors.items()}


def ideal(clients: Mapping[str, Factors], weights: Mapping[str, float]) -> dict[str, Pair]:
    """{module: Σ p_k s_k B_k A_k} as stacked factors: what an exact server would add to the base."""
    names = list(clients)
    modules = clients[names[0]]
    return {m: stack([clients[k][m].pair for k in names], [weights[k] for k in names]) for m in modules}


def _sums(changes: Sequence[Mapping[str, Pair]]) -> dict[str, Pair]:
    """The sum of several changes of the base, one stacked pair a module."""
    modules = dict.fromkeys(module for change in changes for module in change)
    pairs = {module: [change[module] for change in changes if module in change] for module in modules}
    return {module: stack(mine) for module, mine in pairs.items()}


def size(message: Message) -> int:
    """Bytes of the arrays in a message."""
    return sum(array.nbytes for array in message.values())
