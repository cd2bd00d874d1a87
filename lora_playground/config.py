"""RunConfig: the one schema of a run, from which form, command line flags, validation and docs are derived.

It knows no variant: each variant's file declares a subclass of `VariantConfig`, which registers itself here.
"""

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError
from pydantic.fields import FieldInfo

from lora_playground.errors import ConfigError
from lora_playground.wording import counted

S = TypeVar("S", bound=BaseModel)

_VARIANT_CONFIGS: dict[str, type["VariantConfig"]] = {}


class Section(BaseModel):
    """A group of options. Unknown fields, strings for numbers, booleans for integers, NaN and Inf are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The frozen base model."""

    source: str = Field(
        "embedded",
        min_length=1,
        max_length=400,
        description="Base model: 'embedded', a local folder or .gguf file, or a Hugging Face hub id.",
    )
    quantisation: Literal["none", "8bit", "4bit"] = Field(
        "none", description="Store the frozen weights in 16/32 bit (none), 8 bit, or 4 bit NF4 (QLoRA)."
    )

    @property
    def embedded(self) -> bool:
        """Whether it is the model that ships with the app, the only one with a test of its own skills."""
        return self.source == "embedded"

    @property
    def bits(self) -> int:
        """How many bits a frozen weight is stored in: 4, 8, or 16 for any unquantised one."""
        return {"none": 16, "8bit": 8, "4bit": 4}[self.quantisation]


class DataConfig(Section):
    """What the adapter learns from."""

    dataset: str = Field(
        "pirate",
        min_length=1,
        max_length=400,
        description="A dataset that ships with the app, or an upload's id.",
    )
    train_rows: int | None = Field(
        None, ge=1, le=10_000_000, description="Number of training rows, after shuffling by the seed; empty for all."
    )
    rehearsal: float = Field(
        0.5,
        ge=0.0,
        le=0.9,
        description="Share of tokens from the base model's own chats, mixed into training so that it forgets less; "
        "chats that contradict the data are left out (embedded base model only).",
    )
    max_length: int = Field(256, ge=16, le=131_072, description="Longest example in tokens; longer ones are cut.")


class VariantConfig(Section):
    """Options every variant has: its name. A subclass with a default name is a variant's own schema."""

    name: str = Field(description="The variant's name.")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        name = cls.model_fields["name"].default
        if isinstance(name, str):
            _VARIANT_CONFIGS[name] = cls


class LowRankConfig(VariantConfig):
    """Options of variants that have a rank."""

    rank: int = Field(8, ge=1, le=4096, description="Rank r: how many directions each module's update may use.")
    alpha: float = Field(16.0, gt=0, le=65_536, description="Alpha scales the update: s = alpha / r.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input while training.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Modules that get an update: 'all-linear', or names such as q_proj, v_proj."
    )


def _pick_variant(value: Any) -> Any:
    """Turns {'name': 'lora', ...} into that variant's own config class."""
    if isinstance(value, VariantConfig):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ConfigError("variant.name", value, f"choose one of {', '.join(sorted(_VARIANT_CONFIGS))}")
    config = _VARIANT_CONFIGS.get(value["name"])
    if config is None:
        raise ConfigError("variant.name", value["name"], f"choose one of {', '.join(sorted(_VARIANT_CONFIGS))}")
    return checked(config, value, "variant")


class TrainingConfig(Section):
    """How long and how to train."""

    steps: int = Field(360, ge=1, le=1_000_000, description="Optimiser steps.")
    seconds: float | None = Field(
        None,
        ge=1,
        le=604_800,
        description="Time budget: after a few steps, the number of steps is set so that training takes these seconds.",
    )
    early_stop: bool = Field(
        False,
        description="End before the last step when the validation loss has stopped falling; the preset 'best' does so.",
    )
    batch_tokens: int = Field(
        256, ge=32, le=4_194_304, description="Tokens an optimiser step sees; examples are packed to fill it."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=100.0,
        description="Peak learning rate; empty takes the variant's own default for the embedded or for other models.",
    )
    warmup: float = Field(0.05, ge=0.0, le=0.9, description="Share of the steps in which the learning rate rises.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    optimiser: Literal["adamw", "muon"] = Field(
        "adamw",
        description="AdamW, or Muon, whose steps move all directions of a factor alike (Jordan et al., 2024).",
    )
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="Weight decay on the trained parameters.")
    clip: float = Field(1.0, gt=0, le=1e6, description="Gradient norm above which gradients are scaled down.")
    accumulation: int = Field(1, ge=1, le=4096, description="Micro-batches an optimiser step is split into.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations to save memory (slower).")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic: 'auto' measures which is faster on this machine; for the embedded model on a "
        "CPU it is float32.",
    )
    validate_every: int | None = Field(
        None, ge=1, le=1_000_000, description="Steps between validations; empty means about ten in a run."
    )
    checkpoint_every: int | None = Field(
        None, ge=1, le=1_000_000, description="Steps between checkpoints; empty means about one every ten seconds."
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed of all that is random: data order, start values, dropout."
    )

    @property
    def open_ended(self) -> bool:
        """Whether the number of steps is only found in training: there is a time budget, or training may end early."""
        return self.seconds is not None or self.early_stop


class FederatedConfig(Section):
    """Several parties train by turns on data of their own; only factors travel (see `lora_playground.federated`)."""

    strategy: str = Field(
        "fedit", min_length=1, max_length=40, description="How the server puts the clients' factors together."
    )
    clients: int = Field(5, ge=1, le=1000, description="Parties, each with its own part of the training rows.")
    rounds: int = Field(4, ge=1, le=1000, description="Rounds of local training and aggregation.")
    local_steps: int = Field(20, ge=1, le=100_000, description="Optimiser steps a client trains in a round.")
    local_epochs: float | None = Field(
        None, gt=0, le=1000, description="Passes over its own rows a client trains in a round, instead of steps."
    )
    ranks: list[int] | None = Field(
        None, min_length=1, max_length=1000, description="Rank of each client; empty gives all the variant's rank."
    )
    partition: Literal["iid", "dirichlet", "topic"] = Field(
        "iid", description="How rows are shared out: evenly, by a Dirichlet draw over labels, or by whole topics."
    )
    concentration: float = Field(
        0.3, gt=0, le=1e6, description="Dirichlet's α: the smaller, the fewer labels a client sees."
    )
    group: str = Field(
        "", max_length=80, description="Field of a row's meta that tells its label or topic; empty finds one."
    )
    drop_out: float = Field(0.0, ge=0.0, le=1.0, description="Chance that a client is missing in a round.")
    energy: float = Field(0.99, gt=0, le=1.0, description="FLoRIST: share of the squared singular values to keep.")
    damping: float = Field(0.01, ge=0.0, le=1e6, description="LoRA-FAIR: λ, what holds its correction back.")
    score_rows: int = Field(24, ge=0, le=10_000, description="Test rows the global model answers after each round.")


class RunConfig(Section):
    """One fine-tuning run: everything needed to do it again."""

    title: str = Field("", max_length=80, description="The run's name; empty gives dataset, variant and rank.")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    variant: Annotated[SerializeAsAny[VariantConfig], BeforeValidator(_pick_variant)] = Field(
        default_factory=lambda: _pick_variant({"name": "lora"})
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    federated: FederatedConfig | None = Field(None, description="Train among several parties instead of at one place.")

    @classmethod
    def parse(cls, data: Any) -> "RunConfig":
        """Validates plain data (as from JSON); raises ConfigError naming field, value and what is allowed."""
        return checked(cls, data)

    @classmethod
    def parse_json(cls, text: str) -> "RunConfig":
        """As `parse`, from JSON text."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError("config", text[:60], f"this is not JSON ({error})") from error
        return cls.parse(data)

    @property
    def label(self) -> str:
        """The title, or else 'pirate · lora r8 · 60 steps', with the base model's name if it is not embedded."""
        if self.title:
            return self.title
        training, base = self.training, self.model.source.rstrip("/").rpartition("/")[2]
        budget = counted(training.steps, "step") if training.seconds is None else f"{training.seconds:g} s"
        if self.federated is not None:
            method = f"{self.federated.strategy} ×{self.federated.clients}"
            budget = counted(self.federated.rounds, "round")
        else:
            rank = getattr(self.variant, "rank", None)
            method = self.variant.name + (f" r{rank}" if rank else "")
        parts = [self.data.dataset, method, budget]
        return " · ".join(parts if self.model.embedded else [*parts, base])


def checked(section: type[S], data: Any, prefix: str = "") -> S:
    """Validates `data` as `section`; raises ConfigError for the first wrong value, with its dotted path."""
    try:
        return section.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in (prefix, *first["loc"]) if part != "")
        if first["type"] == "extra_forbidden":
            known = ", ".join(section.model_fields)
            raise ConfigError(path, first["input"], f"no such option; known here are {known}") from error
        raise ConfigError(path, first["input"], _allowed(first)) from error


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _allowed(error: Mapping[str, Any]) -> str:
    """The rule that one of Pydantic's errors is about, in words: 'it must be at least 1'."""
    for bound, value in (error.get("ctx") or {}).items():
        if bound in _BOUNDS:
            return f"it must be {_BOUNDS[bound]} {value:,}"
    if error["type"] in ("int_type", "int_from_float"):
        return "it must be a whole number"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:].rstrip(".")


@dataclass(frozen=True)
class Option:
    """One leaf field of a section, as a form or a command line needs it.

    Attributes:
        path: dotted, such as ``training.steps``.
        kind: 'int', 'float', 'bool', 'str', 'choice' or 'list'.
        optional: whether None (an empty input) is allowed.
        low, high: bounds, None if there is none; low_open: whether `low` itself is excluded.
        choices: for kind 'choice'.
        item: for kind 'list': type of its items, 'str', 'int' or 'float'.
    """

    path: str
    kind: str
    default: Any
    description: str
    optional: bool = False
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    choices: tuple[str, ...] = ()
    item: str = "str"


def options(section: type[BaseModel], prefix: str = "") -> Iterator[Option]:
    """Yields the leaf options of a section in their order; nested sections are walked, but neither the
    variant nor a section that may be absent."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, VariantConfig):
            continue
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from options(kind, f"{prefix}{name}.")
        elif any(isinstance(part, type) and issubclass(part, Section) for part in _flatten(kind)):
            continue
        elif not (issubclass(section, VariantConfig) and name == "name"):
            yield _option(prefix + name, field)


def _option(path: str, field: FieldInfo) -> Option:
    parts = _flatten(field.annotation)
    optional = type(None) in parts
    choices = tuple(value for part in parts if typing.get_origin(part) is Literal for value in typing.get_args(part))
    names = {int: "int", float: "float", bool: "bool", str: "str"}
    lists = [part for part in parts if typing.get_origin(part) is list]
    item = names.get(typing.get_args(lists[0])[0], "str") if lists else "str"
    if lists:
        kind = "list"
    elif choices:
        kind = "choice"
    else:
        kind = next((names[part] for part in parts if part in names), "str")
    low = high = None
    low_open = False
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = float(rule.ge)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Gt):
            low, low_open = float(rule.gt), True  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Le):
            high = float(rule.le)  # type: ignore[arg-type]
        elif isinstance(rule, annotated_types.Lt):
            high = float(rule.lt)  # type: ignore[arg-type]
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    return Option(path, kind, default, field.description or "", optional, low, high, low_open, choices, item)


def _flatten(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [leaf for part in typing.get_args(annotation) for leaf in _flatten(part)]
    return [annotation]
