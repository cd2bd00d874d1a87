"""A claim as data: the schema of a file `assets/claims/<name>.toml`, and the claims that ship.

A claim names its paper and says what it claims, in the paper's own terms. Most claims compare sides, each a run that is
trained with several seeds; others rest on figures that a script measures; some cannot be shown here, and say why.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lora_playground.assets import ASSETS
from lora_playground.config import RunConfig
from lora_playground.errors import AssetError, ConfigError

FOLDER = ASSETS / "claims"
MEASURES = {
    "score": "score on the test rows",
    "skills": "old skills kept",
    "validation_loss": "validation loss",
}
"""{measure by which the runs of a claim are compared: its name in words}."""


class Part(BaseModel):
    """Base of all parts of a claim: unknown fields are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Side(Part):
    """One side of a comparison: a run. `config` is a RunConfig's plain data; `title` its name in the list of runs."""

    title: str = Field(min_length=1, max_length=60)
    config: dict[str, Any]

    def run_config(self, seed: int = 0, model: str | None = None) -> RunConfig:
        """The validated config with this seed, and with the base model `model` if it is given, whose name is then in
        the title. Raises ConfigError."""
        training = {**self.config.get("training", {}), "seed": seed}
        data = {**self.config, "title": self.title, "training": training}
        if model:
            name = model.rstrip("/").rpartition("/")[2]
            data |= {"title": f"{self.title} · {name}", "model": {"source": model}}
        return RunConfig.parse(data)


class More(Part):
    """Holds if side `a` is better than side `b` (higher, or lower for a loss) by at least `by`, as a share of `b`'s
    value if `relative`, and the 95% interval of their difference lies above 0."""

    kind: Literal["more"]
    a: str
    b: str
    by: float = 0.0
    relative: bool = False


class Equal(Part):
    """Holds if the 95% interval of the difference of every pair lies within ±`within`, as a share of the second side's
    value if `relative`."""

    kind: Literal["equal"]
    pairs: list[tuple[str, str]] = Field(min_length=1)
    within: float = Field(gt=0)
    relative: bool = False


class Best(Part):
    """Holds if `side` has the best mean of all sides."""

    kind: Literal["best"]
    side: str


class Lines(Part):
    """A plot of figures named `<start>_<x>` over x, both axes logarithmic, beside a straight guide line.

    Attributes:
        starts: {start of the figures' names: label of their line}. x, y: labels of the axes.
        slope, guide: slope and label of the guide line.
    """

    starts: dict[str, str] = Field(min_length=1)
    x: str
    y: str
    slope: float
    guide: str


class Figures(Part):
    """Holds if every figure lies within its bounds.

    Attributes:
        bounds: {name under which the script stores the figure: (lowest, highest)}; None leaves that end open.
        labels: {name: label}.
    """

    kind: Literal["figures"]
    bounds: dict[str, tuple[float | None, float | None]] = Field(min_length=1)
    labels: dict[str, str] = {}
    lines: Lines | None = None


class NotHere(Part):
    """The claim cannot be tested with this app; `why` says why not."""

    kind: Literal["not here"]
    why: str = Field(min_length=1)


Test = Annotated[More | Equal | Best | Figures | NotHere, Field(discriminator="kind")]


class Claim(Part):
    """One claim.

    Attributes:
        name: of its file. paper: authors, title, year. url: of the paper. claim: what it says, in its own terms.
        here: what is compared on this app's model, and what differs from the paper. note: what to keep in mind.
        order: position in the list. measure: what the runs are compared by, a key of `MEASURES`.
        seeds: how many are trained for each side. sides: {key: run}. test: what must hold for the verdict "shows".
        minutes: roughly how long a visitor's own trial takes on two cores.
    """

    name: str
    title: str
    paper: str
    url: str
    claim: str
    here: str
    note: str = ""
    order: int = 100
    measure: Literal["score", "skills", "validation_loss"] = "score"
    seeds: int = Field(3, ge=2)
    minutes: float = 2
    sides: dict[str, Side] = {}
    test: Test

    @model_validator(mode="after")
    def _consistent(self) -> Claim:
        named = {
            "more": lambda test: [test.a, test.b],
            "equal": lambda test: [key for pair in test.pairs for key in pair],
            "best": lambda test: [test.side],
        }.get(self.test.kind, lambda test: [])(self.test)
        for key in named:
            if key not in self.sides:
                raise ValueError(f"the test names a side {key!r}, which is not in [sides]")
        return self

    @property
    def command(self) -> str:
        """The command that measures the claim; '' if it cannot be measured."""
        return f"python benchmarks/claims.py {self.name}" if self.test.kind != "not here" else ""


@lru_cache(maxsize=1)
def list_claims() -> tuple[Claim, ...]:
    """All claims, sorted by `order`. Raises AssetError if a file is damaged."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        try:
            found.append(Claim.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))}))
        except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
            raise AssetError(f"The claim {path.name} cannot be read: {error}") from error
    return tuple(sorted(found, key=lambda one: (one.order, one.name)))


def get_claim(name: str) -> Claim:
    """The claim of that name. Raises ConfigError, which lists the names, if there is none."""
    found = next((one for one in list_claims() if one.name == name), None)
    if found is None:
        raise ConfigError("claim", name, f"one of {', '.join(one.name for one in list_claims())}")
    return found
