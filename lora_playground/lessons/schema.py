"""A lesson as data: the schema of a file `assets/lessons/<name>.toml`, and what is wrong with one in plain words.

It knows the kinds of steps and of quantities, and how a run is described; nothing of pages, people or results.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lora_playground.config import RunConfig
from lora_playground.lessons.quantities import Quantity, quantities_in

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
KEY = r"^[a-z][a-z0-9_]{0,39}$"
TABS = Literal["fine", "spectrum", "chat", "compare", "federated", "lab", "learn"]
PLACEHOLDER = re.compile(r"\{\{\s*([^{}|]+?)\s*(\|\s*range\s*)?\}\}")
"""A figure in a text: {{r1.score}} is its mean over the measured seeds, {{r1.score|range}} their least and most;
{{r1.first_words}} are the words that gain most as the first of an answer to questions that its data have no part in."""
WORDS = re.compile(r"([a-z][a-z0-9_]*)\.first_words")


class Part(BaseModel):
    """What all parts of a lesson share: unknown fields are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunPart(Part):
    """A run of the lesson.

    Attributes:
        title: its name in the list of runs.
        config: a RunConfig's plain data without the title; steps and seed must be given, so that all get the same run.
        hidden: people see an adapter with this title, and neither its data nor how it was trained.
    """

    title: str = Field(min_length=1, max_length=60)
    config: dict[str, Any]
    hidden: bool = False

    @property
    def short_title(self) -> str:
        """The title without the word that only the list of runs needs."""
        return self.title.removeprefix("Lesson: ")

    def run_config(self) -> RunConfig:
        """The validated config, with the title. Raises ConfigError."""
        return RunConfig.parse({**self.config, "title": self.title})


class StepPart(Part):
    """What all steps share. `text` is Markdown with $formulas$ and {{figures}}."""

    title: str = Field(min_length=1, max_length=80)
    text: str = ""


class Say(StepPart):
    """Text, an equation. Complete when it was read on."""

    kind: Literal["say"]


class Show(StepPart):
    """Opens a tab, ticks runs, marks a control until the step is left. Complete when the tab was opened, or, where
    `use` is set, when the control was used.

    Attributes:
        tab: which tab. runs: keys of runs to tick. control: elem_id of a control on the page.
    """

    kind: Literal["show"]
    tab: TABS | None = None
    runs: list[str] = []
    control: str | None = Field(None, pattern=r"^lp-[a-z0-9-]+$")
    use: bool = False

    @model_validator(mode="after")
    def _shows(self) -> Show:
        if self.tab is None and self.control is None and not self.runs:
            raise ValueError("a step of kind show names a tab, a control or runs")
        if self.use and self.control is None:
            raise ValueError("use = true needs a control")
        return self


class Choice(Part):
    """One answer to choose. `when` is a comparison of quantities that makes it right, such as `r1.score > 0.8`; `right`
    says so where nothing is measured. `because` is told after it was chosen."""

    text: str = Field(min_length=1, max_length=200)
    because: str = Field(min_length=1)
    when: str | None = None
    right: bool = False


class Axis(Part):
    """An axis of a sketch. `unit` is '%' for shares, which are given and kept from 0 to 1."""

    label: str
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    log: bool = False


class Ask(StepPart):
    """A prediction, locked when it is given, and before anything of it is revealed.

    Attributes:
        name: what `reveal` calls it by. form: which of the following fields count.
        choices: for a choice. axis: of a number or of a sketch's heights. x, x_label: where a sketch has its points.
        within: a number or a sketch is near where it is off by at most so much (a sketch: on the mean).
        near, low, high: the sentence for a prediction that was near, too low, too high.
    """

    kind: Literal["ask"]
    name: str = Field(pattern=KEY)
    form: Literal["number", "choice", "curve"]
    choices: list[Choice] = []
    axis: Axis | None = None
    x: list[float] = []
    x_label: str = ""
    within: float | None = Field(None, gt=0)
    near: str = ""
    low: str = ""
    high: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Ask:
        if self.form == "choice":
            if len(self.choices) < 2:
                raise ValueError("a choice needs at least two choices")
            if not any(choice.when or choice.right for choice in self.choices):
                raise ValueError("no choice can be right: give one `when` or `right`")
        else:
            if self.axis is None or self.within is None or not (self.near and self.low and self.high):
                raise ValueError(f"a {self.form} needs axis, within, near, low and high")
            if self.form == "curve" and (len(self.x) < 2 or self.x != sorted(set(self.x))):
                raise ValueError("a curve needs at least two rising x")
        return self


class RunStep(StepPart):
    """Runs to train, or to play back where this server has them. Complete when all have a result."""

    kind: Literal["run"]
    runs: list[str] = Field(min_length=1)


class Measure(StepPart):
    """A table of what came out: runs by values. Complete when all values are there."""

    kind: Literal["measure"]
    runs: list[str] = Field(min_length=1)
    values: list[str] = Field(min_length=1)


class Reveal(StepPart):
    """Prediction and result in one picture, with the sentence that belongs to what was predicted.

    Attributes:
        ask: one prediction, or several choices that are counted together.
        result: quantities: one for a number, one a point for a sketch, any for a choice; labels: names for them.
    """

    kind: Literal["reveal"]
    ask: str | list[str]
    result: list[str] = []
    labels: list[str] = []

    @property
    def asks(self) -> list[str]:
        return [self.ask] if isinstance(self.ask, str) else list(self.ask)


class Check(Part):
    """What was really done. `did`: a run of one's own, a question in the chat, or a control used.

    Attributes:
        where: for a run, {dotted option: value, or {at_least, at_most, not}}.
        then: a comparison in which the run is called `mine`, such as `mine.score >= r1.score`.
        control: for did = "control". chat: for did = "chat", what a pane must be set to: {keep: 1}.
    """

    did: Literal["run", "chat", "control"]
    where: dict[str, Any] = {}
    then: str | None = None
    control: str | None = Field(None, pattern=r"^lp-[a-z0-9-]+$")
    keep: int | None = Field(None, ge=0)


class Modify(StepPart):
    """A change of one's own. Complete when what `check` asks for was done; `hint` stands folded beneath."""

    kind: Literal["modify"]
    check: Check
    tab: TABS | None = None
    runs: list[str] = []
    done: str = Field(min_length=1)
    hint: str = ""


Step = Annotated[Say | Show | Ask | RunStep | Measure | Reveal | Modify, Field(discriminator="kind")]


class Lesson(Part):
    """A lesson: `name` is its file's, `minutes` on two cores, `after` what one can do then, `order` its place."""

    name: str
    title: str = Field(min_length=1, max_length=60)
    minutes: int = Field(ge=1, le=60)
    after: str = Field(min_length=1, max_length=300)
    order: int = 100
    runs: dict[Annotated[str, Field(pattern=KEY)], RunPart] = {}
    steps: list[Step] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a lesson's file name has small letters, digits and hyphens, at most 40")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Lesson:
        asks = [step.name for step in self.steps if isinstance(step, Ask)]
        if len(set(asks)) != len(asks):
            raise ValueError("two steps of kind ask have the same name")
        for number, step in enumerate(self.steps, 1):
            where = f"step {number} ({step.title})"
            for run in [
                *getattr(step, "runs", []),
                *self.words_of(step),
                *(quantity.run for quantity in self.quantities_of(step)),
            ]:
                if run not in self.runs and run != "mine":
                    raise ValueError(f"{where} names a run {run!r}, which is not in [runs]")
            if isinstance(step, Reveal):
                self._revealed(where, step, number)
        return self

    def _revealed(self, where: str, step: Reveal, number: int) -> None:
        before = {one.name: one for one in self.steps[: number - 1] if isinstance(one, Ask)}
        for name in step.asks:
            if name not in before:
                raise ValueError(f"{where} reveals {name!r}, which no step before it asks")
        if len(step.asks) > 1 and any(before[name].form != "choice" for name in step.asks):
            raise ValueError(f"{where}: only choices are revealed together")
        asked = before[step.asks[0]]
        wanted = {"number": 1, "curve": len(asked.x)}.get(asked.form)
        if wanted is not None and len(step.result) != wanted:
            raise ValueError(f"{where} has {len(step.result)} results; {asked.name} needs {wanted}")
        if step.labels and len(step.labels) != len(step.result):
            raise ValueError(f"{where} has {len(step.labels)} labels for {len(step.result)} results")

    def quantities_of(self, step: Any) -> list[Quantity]:
        """All quantities that a step measures, compares or names in its text."""
        found = [Quantity.parse(text) for text in getattr(step, "result", [])]
        for run in step.runs if isinstance(step, Measure) else []:
            found += [Quantity.parse(f"{run}.{value}") for value in step.values]
        for choice in getattr(step, "choices", []):
            found += quantities_in(choice.when or "")
        if isinstance(step, Modify):
            found += quantities_in(step.check.then or "")
        for text in texts_of(step):
            found += [Quantity.parse(one) for one in self._placeholders(text) if not WORDS.fullmatch(one)]
        return found

    @staticmethod
    def _placeholders(text: str) -> list[str]:
        return [match[1] for match in PLACEHOLDER.finditer(text)]

    def words_of(self, step: Any) -> list[str]:
        """The runs whose first words a step's texts name."""
        named = [WORDS.fullmatch(one) for text in texts_of(step) for one in self._placeholders(text)]
        return [match[1] for match in named if match]

    def asked(self, name: str) -> Ask:
        """The step that asks for this prediction. Raises StopIteration."""
        return next(step for step in self.steps if isinstance(step, Ask) and step.name == name)

    def reveal_of(self, ask: Ask) -> Reveal | None:
        """The first step that reveals the result of a prediction; None if none does."""
        return next((step for step in self.steps if isinstance(step, Reveal) and ask.name in step.asks), None)


def texts_of(step: Any) -> list[str]:
    """All texts of a step that people read."""
    found = [step.title, step.text]
    found += [getattr(step, name, "") for name in ("near", "low", "high", "hint")]
    if isinstance(step, Modify):
        found.append(step.done)
    for choice in getattr(step, "choices", []):
        found += [choice.text, choice.because]
    return [text for text in found if text]
