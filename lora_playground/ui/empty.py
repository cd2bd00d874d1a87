"""The page before a run is started: what a run with the form's settings would be about.

It has two prompts with the base's answers, the map of all modules at zero, W with A and B to scale, and a button to
play a recorded run if there is one. It reads headers and shipped files, loads no weights and starts no run. If a person
wants to see the base's answers, the chat process makes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import ChatRequest
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset, offered_prompts
from lora_playground.errors import PlaygroundError
from lora_playground.estimates.parameters import modules_of
from lora_playground.runs.history import RunProgress
from lora_playground.ui import cards, method_card, recordings, run_figures
from lora_playground.ui.shell import SETS
from lora_playground.ui.words import escape
from lora_playground.variants.targets import select
from lora_playground.wording import counted

PROBES, TOKENS = 2, 48


def build() -> gr.HTML:
    """Makes the invisible element by which the page's script gets the plan."""
    return gr.HTML("", js_on_load="lp.empty.obey(props, watch)", html_template=" ", elem_classes="lp-hidden")


def plan(config: RunConfig, home: Path) -> dict[str, Any]:
    """What the page shows of a run before it is started: parts of the same form as those of the live route."""
    source, dataset = config.model.source, config.data.dataset
    record = recordings.recording(dataset, source)
    variant = config.variant.model_dump()
    names = _modules(config)
    progress = RunProgress.of(
        [
            {"type": "plan", "steps": config.training.steps, "modules": [[name, 0, 0] for name in names]},
            {"type": "spectra", "effective_rank": dict.fromkeys(names, 0.0)},
        ]
    )
    curve = run_figures.curve(progress, 0)
    curve["words"] = (
        f"The loss of {counted(config.training.steps, 'step')} will stand here." if not config.training.seconds else ""
    )
    return {
        "base": source if source != "embedded" else "",
        "label": config.label,
        "link": _link(config),
        "scale": method_card.picture(variant, source),
        "play": _play(record, config),
        "recording": dataset if record else "",
        "probes": recordings.base_answers(record) if record else _prompts(config, home),
        "curve": curve,
        "pictures": run_figures.pictures(progress, "", getattr(config.variant, "rank", None)) if names else None,
    }


def _link(config: RunConfig) -> dict[str, str]:
    """The parameters of a link that fills the form with this config; `form_memory.PRESETS` reads them."""
    timed = config.training.seconds is not None
    parameters = {
        "dataset": config.data.dataset,
        "model": "" if config.model.embedded else config.model.source,
        "variant": config.variant.name,
        "rank": getattr(config.variant, "rank", None),
        "steps": None if timed else config.training.steps,
        "seconds": f"{config.training.seconds:g}" if timed else None,
    }
    return {name: str(value) for name, value in parameters.items() if value}


def _modules(config: RunConfig) -> list[str]:
    """Names of the modules that will be adapted, in the model's order; [] if its files are not on this disk."""
    try:
        modules = modules_of(config.model.source)
    except PlaygroundError:
        return []
    if not modules:
        return []
    targets = getattr(config.variant, "target_modules", None)
    try:
        return list(select(modules.linear, targets) if targets else modules.linear)
    except PlaygroundError:
        return []


def _play(record: dict[str, Any] | None, config: RunConfig) -> str:
    """The button that plays the recording, and how its settings differ from the form's."""
    if record is None:
        return ""
    recorded = RunConfig.parse(record["config"])
    same = recorded.model_copy(update={"title": ""}) == config.model_copy(update={"title": ""})
    settings = "made with these settings" if same else f"made with other settings: {recorded.label}"
    return (
        '<p class="lp-idle-play"><button class="lp-play" data-act="play">▶ Watch a recording</button> '
        f'<span class="lp-note">A real run, {escape(settings)}, in a few seconds.</span></p>'
    )


def _prompts(config: RunConfig, home: Path) -> str:
    """The prompts, without answers, and a button that asks the base."""
    prompts = _asked(config.data.dataset, home)
    if not prompts:
        return ""
    ask = '<button class="lp-link" data-act="ask-base">Ask the base now</button>'
    return _cards([prompt[-1]["content"] for prompt in prompts], [ask] * len(prompts))


def _asked(dataset: str, home: Path) -> list[list[dict[str, str]]]:
    try:
        return offered_prompts(get_dataset(dataset, home), PROBES)
    except PlaygroundError:
        return []


def _cards(prompts: list[str], answers: list[str]) -> str:
    """Cards with a prompt, which is escaped here, above an answer, which is HTML."""
    shown = "".join(
        f'<article class="lp-probe"><div class="q">{escape(prompt)}</div>'
        f'<div class="a"><span class="w">base model</span>{answer}</div></article>'
        for prompt, answer in zip(prompts, answers)
    )
    return f'<div class="lp-probes" aria-label="What the base says now">{shown}</div>'


class AskBase:
    """Asks the base the prompts of the plan, through the chat process."""

    def __init__(self, client: ChatClient, home: Path) -> None:
        self._client, self._home = client, home

    def connect(self, dataset: Any, source: Any) -> None:
        """Makes the invisible elements for the page's request and for the answers."""
        wish = gr.HTML("", js_on_load="lp.empty.asks(trigger); // 'act'", html_template=" ", elem_classes="lp-hidden")
        said = gr.HTML("", js_on_load="lp.empty.answered(props, watch)", html_template=" ", elem_classes="lp-hidden")
        wish.act(self.answers, [dataset, source], said, **SETS)

    async def answers(self, dataset: str, source: str) -> AsyncIterator[dict[str, str]]:
        """Yields the cards with the answers so far."""
        prompts = _asked(dataset, self._home)
        questions, answers = [prompt[-1]["content"] for prompt in prompts], ["…"] * len(prompts)
        for number, prompt in enumerate(prompts):
            try:
                system = "\n".join(one["content"] for one in prompt if one["role"] == "system")
                messages = [one for one in prompt if one["role"] != "system"]
                request = ChatRequest.parse(
                    {"base": {"source": source}, "panes": [{}], "messages": [messages], "system": system,
                     "max_new_tokens": TOKENS, "detail": False}
                )  # fmt: skip
                text = ""
                async with aclosing(self._client.stream(request)) as stream:  # type: ignore[type-var]
                    async for event in stream:
                        if event.type == "status":
                            answers[number] = escape(event.text)
                        elif event.type == "tokens":
                            text += "".join(token.text for token in event.tokens or [])
                            answers[number] = escape(text)
                        elif event.type == "error":
                            answers[number] = cards.error(event.text)
                        yield {"dataset": dataset, "html": _cards(questions, answers)}
            except PlaygroundError as failure:
                answers[number] = cards.error(str(failure))
                yield {"dataset": dataset, "html": _cards(questions, answers)}
