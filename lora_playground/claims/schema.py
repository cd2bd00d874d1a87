"""A claim as data: the schema of a file `assets/claims/<name>.toml`, and the claims that ship.

A claim names its paper and what it says in the paper's own terms. Most compare two sides, which are runs of this app
with several seeds; others rest on numbers that a script makes; some cannot be shown here, and say why.
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
"""{what a run is measured by: in words}."""


class Part(BaseModel):
    """What all parts of a claim share: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Side(Part):
    """One side of a comparison: a run. `config` is a RunConfig's plain data; `title` its name in the list of runs."""

    title: str = Field(min_length=1, max_length=60)
    config: dict[str, Any]

    def run_config(self, seed: int = 0, model: str | None = None) -> RunConfig:
        """The validated config with this seed, on another base model where one is given. Raises ConfigError."""
        training = {**self.config.get("training", {}), "seed": seed}
        data = {**self.config, "title": self.title, "training": training}
        return RunConfig.parse(data | ({"model": {"source": model}} if model else {}))


class More(Part):
    """`a` measures more than `b` (less, for a loss): by at least `by`, or by the factor 1 + `by` where `relative`."""

    kind: Literal["more"]
    a: str
    b: str
    by: float = 0.0
    relative: bool = False


class Equal(Part):
    """Every pair differs by no more than `within`, or by that share of the second where `relative`."""

    kind: Literal["equal"]
    pairs: list[tuple[str, str]] = Field(min_length=1)
    within: float = Field(gt=0)
    relative: bool = False


class Best(Part):
    """No other side is better than this one beyond what the seeds explain."""

    kind: Literal["best"]
    side: str


class Lines(Part):
    """A picture of figures that are called `<start>_<x>`, both axes logarithmic, with a straight line of a `slope`.

    Attributes:
        starts: {how the figures' names start: what the line is called}. x, y: what the axes show.
        guide: what the straight line is called.
    """

    starts: dict[str, str] = Field(min_length=1)
    x: str
    y: str
    slope: float
    guide: str


class Figures(Part):
    """Every figure lies within its bounds. The script stores the figures by these names."""

    kind: Literal["figures"]
    bounds: dict[str, tuple[float | None, float | None]] = Field(min_length=1)
    labels: dict[str, str] = {}
    lines: Lines | None = None


class NotHere(Part):
    """It cannot be shown here: `why`."""

    kind: Literal["not here"]
    why: str = Field(min_length=1)


Test = Annotated[More | Equal | Best | Figures | NotHere, Field(discriminator="kind")]


class Claim(Part):
    """One claim.

    Attributes:
        name: of its file. paper: authors, title, year. url: where it stands. claim: what it says, in its own terms.
        here: what is compared on this app's model, and what differs from the paper. note: what to keep in mind.
        measure: what runs are compared by. seeds: how many were measured. sides: {key: run}.
        minutes: about how long a visitor's own trial takes on two cores.
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
        """What measures it again."""
        return f"python benchmarks/claims.py {self.name}" if self.test.kind != "not here" else ""


@lru_cache(maxsize=1)
def list_claims() -> tuple[Claim, ...]:
    """All claims, in their order. Raises AssetError: a file is damaged."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        try:
            found.append(Claim.model_validate({"name": path.stem, **tomllib.loads(path.read_text(encoding="utf-8"))}))
        except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
            raise AssetError(f"The claim {path.name} cannot be read: {error}") from error
    return tuple(sorted(found, key=lambda one: (one.order, one.name)))


def get_claim(name: str) -> Claim:
    """One claim. Raises ConfigError: which there are."""
    found = next((one for one in list_claims() if one.name == name), None)
    if found is None:
        raise ConfigError("claim", name, f"one of {', '.join(one.name for one in list_claims())}")
    return found
