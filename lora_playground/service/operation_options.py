"""The options of operations other than training: one schema for their command-line flags and their endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field

from lora_playground.analysis.merging import METHODS
from lora_playground.config import Section, checked

S = TypeVar("S", bound=Section)
_WAYS = "; ".join(f"{name}: {method.sentence}" for name, method in METHODS.items())


class EvaluateOptions(Section):
    """What is scored."""

    rows: int | None = Field(None, ge=1, le=1_000_000, description="The most test rows to answer; left out, all.")


class ExportOptions(Section):
    """What is written."""

    rank: int | None = Field(
        None, ge=1, le=1_000_000, description="For lora: the highest rank a module may have; left out, all of it."
    )


class ChatOptions(Section):
    """How both models answer. Bounds are those of `chat.protocol.ChatRequest`."""

    system: str = Field("", max_length=8_000, description="A system prompt, put before the conversation.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the sampling noise that all share.")
    temperature: float = Field(0.0, ge=0, le=5, description="0 always takes the most probable token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Choose among the tokens that hold this much probability.")
    max_new_tokens: int = Field(128, ge=1, le=4096, description="Longest answer in tokens.")
    strength: float = Field(
        1.0, ge=-2, le=2, description="Factor on the updates: 1 as trained, 0 the base, below 0 taken away."
    )
    keep: int | None = Field(
        None, ge=0, le=4096, description="How many of the strongest directions of every module are kept; left out, all."
    )


class MixingOptions(Section):
    """How runs are mixed."""

    method: str = Field("sum", max_length=40, description=f"How they are mixed. {_WAYS}")
    density: float = Field(0.5, gt=0, le=1, description="Share of the entries that ties and dare keep.")
    rank: int | None = Field(None, ge=1, le=4096, description="Of the mixture, for svd; left out, the largest rank.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of what dare drops.")


class DirectionOptions(Section):
    """Which direction of a module's update is read, and how."""

    index: int = Field(1, ge=1, le=100_000, description="Which direction; 1 is the strongest.")
    prompt: str = Field(
        "", max_length=20_000, description="The text it reads; left out, one of the dataset's test part."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the random directions beside it.")
    strength: float = Field(1.0, ge=-2, le=2, description="Factor on the direction where it answers alone.")
    max_new_tokens: int = Field(64, ge=1, le=4096, description="Longest answer in tokens.")


class DialOptions(Section):
    """What is turned while a run's score is taken."""

    of: Literal["strength", "intruders"] = Field(
        "strength", description="What is turned: the strength of the whole update, or of its intruder dimensions."
    )
    values: list[float] | None = Field(
        None, max_length=100, description="Where it is turned to: from -2 (intruders: from 0) to 2; left out, a few."
    )
    rows: int = Field(24, ge=4, le=100_000, description="Test rows a score is made of.")


class WeightsOptions(MixingOptions):
    """How runs are mixed, and how their tasks are scored."""

    rows: int = Field(24, ge=4, le=100_000, description="Test rows a score is made of.")


SECTIONS: dict[str, type[Section]] = {
    "evaluate": EvaluateOptions, "export": ExportOptions, "chat": ChatOptions,
    "merge": MixingOptions, "merge_scores": WeightsOptions, "direction": DirectionOptions, "dial": DialOptions,
}  # fmt: skip
"""{operation: schema of its **options}. Operations that are not listed here have the options of a run, or none."""


def section_of(section: type[S], given: Mapping[str, Any]) -> S:
    """Checks options that a program gives, of which None counts as not given. Raises ConfigError."""
    return checked(section, {name: value for name, value in given.items() if value is not None})


def flags_of(given: Section) -> list[str]:
    """Options as flags of the command line. They are joined by '=', so that a negative value is not read as a flag."""
    flags = []
    for name, value in given:
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            flags.append(f"--{name.replace('_', '-')}={text}")
    return flags
