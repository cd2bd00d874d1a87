"""The schema of a lesson's file, `assets/lessons/<name>.toml`; it says in plain words what is wrong with a file.

It knows the kinds of steps and of quantities, and how a run is described; nothing of web pages, people or results.
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
"""A figure in a text: {{r1.score}} stands for the mean over the measured seeds, {{r1.score|range}} for the smallest and
the largest of them. {{r1.first_words}} stands for the words whose probability as the first word of an answer grows
most, for questions unlike the run's data."""
WORDS = re.compile(r"([a-z][a-z0-9_]*)\.first_words")


class Part(BaseModel):
    """Base of all parts of a lesson: unknown fields are refused, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunPart(Part):
    """A run of the lesson.

    Attributes:
        title: its name in the list of runs.
        config: the data of a RunConfig without the title. Steps and seed must be given, so that all get the same run.
        hidden: whether people see only an adapter with this title, not its data or how it was trained.
    """

    title: str = Field(min_length=1, max_length=60)
    config: dict[str, Any]
    hidden: bool = False

    @property
    def short_title(self) -> str:
        """The title without "Lesson: ", which only the list of runs needs."""
        return self.title.removeprefix("Lesson: ")

    def run_config(self) -> RunConfig:
        """The validated config, with the title. Raises ConfigError."""
        return RunConfig.parse({**self.config, "title": self.title})


class StepPart(Part):
    """Base of all steps. `text` is Markdown with $formulas$ and {{figures}}."""

    title: str = Field(min_length=1, max_length=80)
    text: str = ""


class Say(StepPart):
    """Only a text. Done as soon as it is shown."""

    kind: Literal["say"]


class Show(StepPart):
    """Opens a tab, ticks runs in it, and highlights a control until the step is left. Done when the tab was opened, or
    with `use` when the control was used.

    Attributes:
        tab: which tab. runs: keys of the runs to tick. control: elem_id of the control on the page.
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
    """One answer of a multiple-choice question.

    Attributes:
        when: the comparison of quantities under which it is right, such as `r1.score > 0.8`.
        right: whether it is right, where that depends on no measurement.
        because: the explanation shown to those who chose it.
    """

    text: str = Field(min_length=1, max_length=200)
    because: str = Field(min_length=1)
    when: str | None = None
    right: bool = False


class Axis(Part):
    """The axis of a number or sketch, from `low` to `high`. With unit '%' values are shares from 0 to 1."""

    label: str
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    log: bool = False


class Ask(StepPart):
    """Asks for a prediction. Done when it is given; it cannot be changed afterwards.

    Attributes:
        name: by which `Reveal` refers to it. form: a choice, a number or a sketched curve.
        choices: of a choice. axis: of a number, or of a curve's heights. x, x_label: positions of a curve's points.
        within: the largest (for a curve: mean) absolute error of a prediction that counts as near.
        near, low, high: what is told about a prediction that was near, too low, too high.
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
    """Trains runs, or takes them over if this server has trained them before. Done when all have a result."""

    kind: Literal["run"]
    runs: list[str] = Field(min_length=1)


class Measure(StepPart):
    """A table of measured values, one row for each run. Done when all values are there."""

    kind: Literal["measure"]
    runs: list[str] = Field(min_length=1)
    values: list[str] = Field(min_length=1)


class Reveal(StepPart):
    """Shows a prediction and the result in one plot, with a sentence that fits what was predicted.

    Attributes:
        ask: name of one prediction, or of several choices that are counted together.
        result: quantities: one for a number, one for each point of a curve, any number for a choice.
        labels: names for them, in the same order.
    """

    kind: Literal["reveal"]
    ask: str | list[str]
    result: list[str] = []
    labels: list[str] = []

    @property
    def asks(self) -> list[str]:
        """The names of the predictions, also if it is only one."""
        return [self.ask] if isinstance(self.ask, str) else list(self.ask)


class Check(Part):
    """What a person has to do.

    Attributes:
        did: train a run, ask in the chat, or use a control.
        where: for a run, {option such as 'variant.rank': its value, or {at_least, at_most, not}}.
        then: for a run, a comparison that must hold, in which it is called `mine`: `mine.score >= r1.score`.
        control: elem_id of the control to use.
        keep: for the chat, the most directions that the update of a pane may be cut to.
    """

    did: Literal["run", "chat", "control"]
    where: dict[str, Any] = {}
    then: str | None = None
    control: str | None = Field(None, pattern=r"^lp-[a-z0-9-]+$")
    keep: int | None = Field(None, ge=0)


class Modify(StepPart):
    """A task for the learner. It is done when `check` is met; the page then shows `done`, and before that offers
    `hint`."""

    kind: Literal["modify"]
    check: Check
    tab: TABS | None = None
    runs: list[str] = []
    done: str = Field(min_length=1)
    hint: str = ""


Step = Annotated[Say | Show | Ask | RunStep | Measure | Reveal | Modify, Field(discriminator="kind")]


class Lesson(Part):
    """A lesson.

    Attributes:
        name: of its file. minutes: it takes on two cores. after: what people can do afterwards.
        order: position in the list. runs: {key: run}. steps: at least one.
    """

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
        """All quantities that a step measures, compares or mentions in its texts."""
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
        """Keys of the runs of which a step's texts mention `first_words`."""
        named = [WORDS.fullmatch(one) for text in texts_of(step) for one in self._placeholders(text)]
        return [match[1] for match in named if match]

    def asked(self, name: str) -> Ask:
        """The step that asks for the prediction of that name. Raises StopIteration if there is none."""
        return next(step for step in self.steps if isinstance(step, Ask) and step.name == name)

    def reveal_of(self, ask: Ask) -> Reveal | None:
        """The first step that reveals the result of a prediction; None if none does."""
        return next((step for step in self.steps if isinstance(step, Reveal) and ask.name in step.asks), None)


def texts_of(step: Any) -> list[str]:
    """All texts of a step that people get to read."""
    found = [step.title, step.text]
    found += [getattr(step, name, "") for name in ("near", "low", "high", "hint")]
    if isinstance(step, Modify):
        found.append(step.done)
    for choice in getattr(step, "choices", []):
        found += [choice.text, choice.because]
    return [text for text in found if text]
