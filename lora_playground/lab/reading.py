"""One singular direction of a run, for the command line and programs: what it responds to and which words it promotes,
and how the model answers with it alone and without it. Loads torch; the page asks the chat process for the same."""

from __future__ import annotations

from typing import Any

from lora_playground.analysis.directions import alone, random_direction, without
from lora_playground.analysis.update import load_updates
from lora_playground.data.catalogue import get_dataset, offered_prompts
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.runs import Run, RunStore


def first_prompt(run: Run, store: RunStore) -> str:
    """The first prompt of a run's dataset, of its test part if that has one; '' if there is none."""
    try:
        found = offered_prompts(get_dataset(run.config().data.dataset, store.home), 1)
    except PlaygroundError:
        return ""
    return str(found[0][-1]["content"]) if found else ""


def read_direction(
    store: RunStore, id: str, module: str, index: int, prompt: str = "", seed: int = 0, strength: float = 1.0,
    max_new_tokens: int = 64,
) -> dict[str, Any]:  # fmt: skip
    """Reads one singular direction of a module's update.

    Args:
        index: of the direction, from 1, the strongest. prompt: '' takes `first_prompt`.
        seed: of the random direction it is compared with.
        strength: factor on the direction in the answers `alone` and `random`.

    Returns:
        what `models.direction_reader.DirectionReader.read` returns, with `run`, `prompt` and `answers`: greedy answers
        of the `base`, with the `whole` update, with the direction `alone`, `without` it, and with a `random` direction
        of equal strength in its place.

    Raises:
        RunError: the run does not exist or has no update. ConfigError: there is no prompt.
    """
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.direction_reader import DirectionReader
    from lora_playground.models.loading import load_base

    run = store.get(id)
    run.require_update()
    prompt = prompt or first_prompt(run, store)
    if not prompt:
        raise ConfigError("prompt", prompt, "this run's dataset offers none; give the text that shall be read")
    updates = load_updates(run.update_path)
    base = load_base(run.config().model)
    decoder = Decoder(base.model, base.tokenizer)
    whole = decoder.adapter(updates)
    found = DirectionReader(decoder).read(whole, module, index, prompt, seed)
    rows = {
        "base": None,
        "whole": RowUpdate(whole),
        "alone": RowUpdate(decoder.adapter(alone(updates, module, index)), strength),
        "without": RowUpdate(decoder.adapter(without(updates, module, index))),
        "random": RowUpdate(decoder.adapter(random_direction(updates, module, index, seed)), strength),
    }
    asked = [[{"role": "user", "content": prompt}]] * len(rows)
    answers = decoder.generate(asked, list(rows.values()), max_new_tokens=max_new_tokens)
    return {"run": run.id, "prompt": prompt, **found, "answers": dict(zip(rows, answers))}
