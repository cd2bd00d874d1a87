"""The messages between web process and chat process: one JSON object in each line. Plain data, no torch.

Text from a model must be escaped by whoever shows it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lora_playground.analysis.merging import MOST, Recipe
from lora_playground.config import ModelConfig, Section, checked

MAX_PANES = 4
"""The most panes in the tab Chat."""
MAX_ROWS_ASKED = 6
"""The most panes of a request."""
ID = r"^[A-Za-z0-9_-]{1,64}$"
MAX_TURNS = 500
MAX_LINE = 4_000_000
"""The longest line in bytes that either side accepts."""


class Message(Section):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str = Field(max_length=20_000)


class Ingredient(Section):
    """A run in a mixture."""

    run: str = Field(pattern=ID)
    weight: float = Field(1.0, ge=-2.0, le=2.0)


class Mixing(Section):
    """A mixture of runs; for the options see `analysis.merging.Recipe`."""

    runs: list[Ingredient] = Field(min_length=1, max_length=MOST)
    method: str = "sum"
    density: float = 0.5
    rank: int | None = None
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """The recipe of the mixture. Raises ConfigError."""
        return Recipe(self.method, self.density, self.rank, self.seed)


class Direction(Section):
    """One singular direction of one module's update, counted from 1, the strongest.

    Attributes:
        keep: 'alone' (nothing else of the run), 'without' (all of the run but this), 'random' (a random direction of
            equal strength alone).
    """

    module: str = Field(max_length=300)
    index: int = Field(ge=1, le=100_000)
    keep: Literal["alone", "without", "random"] = "alone"
    seed: int = Field(0, ge=0, le=2**31 - 1)


class Pane(Section):
    """One answering model: the base, the base with a run's update or a direction of it, or with a mixture of runs."""

    run: str | None = Field(None, pattern=ID, description="Id of the run whose adapter answers; empty is the base.")
    strength: float = Field(
        1.0, ge=-2.0, le=2.0, description="Factor on the update: 1 as trained, 0 the base, below 0 its opposite."
    )
    mixture: Mixing | None = Field(None, description="Runs that answer together; in the place of a run.")
    direction: Direction | None = Field(None, description="Of the run: one direction alone, or all but this one.")
    cut: tuple[int, int] | None = Field(
        None,
        strict=False,
        description="Keep only the singular directions lo..hi-1 of every module's update; (-k, 0): its weakest k.",
    )

    @field_validator("cut")
    @classmethod
    def _range(cls, cut: tuple[int, int] | None) -> tuple[int, int] | None:
        if cut is not None and not (0 <= cut[0] <= cut[1] or cut[0] < 0 == cut[1]):
            raise ValueError("give two numbers lo, hi with 0 <= lo <= hi, or -k, 0 for the weakest k")
        return cut

    @model_validator(mode="after")
    def _one_thing(self) -> Pane:
        if self.mixture is not None and (self.run or self.cut or self.direction):
            raise ValueError("a pane answers with a mixture or with a run; a mixture is neither cut nor taken apart")
        if self.direction is not None and (self.run is None or self.cut is not None):
            raise ValueError(
                "a direction is one of a run, and of the whole update: name the run and leave the cut away"
            )
        return self


class ChatRequest(Section):
    """One question to all panes.

    Attributes:
        messages: one list for all panes, or one for each; the last message is the user's.
        client: any string that identifies who asks, for fairness.
    """

    base: ModelConfig | None = Field(
        None, description="Base model; empty takes the first run's, else the embedded one."
    )
    panes: list[Pane] = Field(min_length=1, max_length=MAX_ROWS_ASKED)
    messages: list[list[Message]] = Field(min_length=1, max_length=MAX_ROWS_ASKED)
    system: str = Field("", max_length=8_000, description="System prompt, put before the conversation.")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 always takes the most probable token.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Choose among the tokens that hold this much probability.")
    max_new_tokens: int = Field(128, ge=1, le=4096, description="Longest answer, in tokens.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the noise that all panes share.")
    teacher_forced: bool = Field(
        False, description="All panes read the first pane's words; shown is what each would have said."
    )
    detail: bool = Field(True, description="Report probabilities and KL for every token.")
    client: str = Field("", max_length=200)

    @classmethod
    def parse(cls, data: Any) -> ChatRequest:
        """Validates plain data; raises ConfigError naming field, value and what is allowed."""
        return checked(cls, data)

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        if len(self.messages) not in (1, len(self.panes)):
            raise ValueError(f"give one list of messages for all panes, or one for each of the {len(self.panes)} panes")
        for messages in self.messages:
            if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
                raise ValueError("write a message first: every conversation must end with a user's message")
            if len(messages) > MAX_TURNS:
                raise ValueError(f"a conversation has at most {MAX_TURNS} messages; start a new one")
        return self

    def conversation(self, pane: int) -> list[Message]:
        """The messages that a pane answers; in teacher forcing all panes answer the first's."""
        if self.teacher_forced or len(self.messages) == 1:
            return self.messages[0]
        return self.messages[pane]


class Reading(Section):
    """Asks what a direction reads and says (`models.direction_reader`), on a prompt."""

    run: str = Field(pattern=ID)
    module: str = Field(max_length=300)
    index: int = Field(1, ge=1, le=100_000)
    prompt: str = Field(min_length=1, max_length=8_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)

    @classmethod
    def parse(cls, data: Any) -> Reading:
        """Validates plain data; raises ConfigError naming field, value and what is allowed."""
        return checked(cls, data)


class ChatToken(Section):
    """One token of a pane's answer.

    Attributes:
        text: what it adds to the shown text; may be empty within a character of several tokens.
        logprob: log-probability in nats at temperature 1.
        top: the five most probable next tokens here, as [text, log-probability].
        kl: KL(this pane ‖ base) in nats, both having read the same words; None if there is no base to compare with.
        base_logprob, base_top: the base's, having read the same words.
        choice: in teacher forcing, what this pane would have said.
    """

    id: int
    text: str
    logprob: float | None = None
    top: list[tuple[str, float]] | None = Field(None, strict=False)
    kl: float | None = None
    base_logprob: float | None = None
    base_top: list[tuple[str, float]] | None = Field(None, strict=False)
    choice: str | None = None


class PaneStart(Section):
    """What a pane is about to answer.

    Attributes:
        prompt: the text exactly as the model reads it, template included.
        tokens: its length in tokens.
        dropped: oldest messages left out because they do not fit the model's context.
    """

    prompt: str
    tokens: int
    dropped: int = 0


class PaneEnd(Section):
    """How a pane's answer ended.

    Attributes:
        reason: 'stop' (the model ended it), 'length', 'cancelled', 'deadline'.
        text: the whole answer.
        first_difference: index of the first token that differs from the first base pane's (or from the first pane's, if
            there is no base pane); in teacher forcing, of the first for which this pane would have said another one.
            None if there is none.
        mean_kl: mean of the tokens' KL in nats.
    """

    reason: Literal["stop", "length", "cancelled", "deadline"]
    text: str
    tokens: int
    first_difference: int | None = None
    mean_kl: float | None = None


class Verified(Section):
    """The base pane's logits on a fixed prompt, decoded beside these adapters, against those of the untouched base.

    Attributes:
        drift: largest change of a logit, against the largest logit.
    """

    ok: bool
    drift: float


class ChatEvent(Section):
    """One thing that happened to a request.

    Attributes:
        type: 'status' (text says what is being done), 'start' (panes, verified), 'tokens' (pane, tokens),
            'pane_end' (pane, end), 'end' (seconds, tokens_per_second), 'error' (text says what to do; nothing follows),
            'restarted' (the chat process had ended and is asked again: forget what was streamed of this answer).
        seconds: since the request arrived: at the first token in 'start', at the end in 'end'.
    """

    type: Literal["status", "start", "tokens", "pane_end", "end", "error", "restarted"]
    text: str = ""
    pane: int | None = None
    panes: list[PaneStart] | None = None
    verified: Verified | None = None
    tokens: list[ChatToken] | None = None
    end: PaneEnd | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None


def line(message: Section | dict[str, Any]) -> bytes:
    """A message as one line of JSON."""
    if isinstance(message, Section):
        return message.model_dump_json(exclude_none=True).encode() + b"\n"
    import json

    return json.dumps(message).encode() + b"\n"
