"""The upload inside step 1: a file becomes a dataset at once, its columns can be chosen anew, its bad rows are named.

It reads nothing itself (`data.readers`) and knows no run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.data.readers import Reading, columns_of, read_file
from lora_playground.data.uploads import store
from lora_playground.errors import PlaygroundError
from lora_playground.ui import cards
from lora_playground.ui.words import escape

SHOWN_PROBLEMS = 5
ENDINGS = [".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"]


@dataclass
class Upload:
    """The parts of the upload.

    Attributes:
        file: the gr.File; prompt, completion: which column asks and which answers; again: reads with those columns.
        note: what was found or what is wrong.
        stored: gr.State with the id of the newest stored dataset; its `change` tells the step of it.
    """

    file: gr.File
    columns: gr.Group
    prompt: gr.Dropdown
    completion: gr.Dropdown
    again: gr.Button
    note: gr.HTML
    stored: gr.State


def build(home: Path) -> Upload:
    """Makes the parts where it is called, and connects them."""
    with gr.Accordion("Use your own file", open=False, elem_classes="lp-fold", elem_id="lp-upload-fold"):
        gr.HTML(
            '<p class="lp-note">JSONL, JSON, CSV, TSV, Parquet or text, up to 20 MB: questions with answers, chats, or '
            "plain text. It stays on this server.</p>",
            apply_default_css=False,
        )
        file = gr.File(
            label="Your file", file_count="single", type="filepath", height=96, elem_id="lp-upload", show_label=False
        )
        note = gr.HTML("", apply_default_css=False, elem_id="lp-upload-note")
        with gr.Group(visible=False) as columns:
            with gr.Row():
                prompt = gr.Dropdown([], label="Asks", info="column with the question", filterable=False, min_width=120)
                completion = gr.Dropdown(
                    [], label="Answers", info="column with the answer", filterable=False, min_width=120
                )
            again = gr.Button("Read it with these columns", size="sm", elem_id="lp-upload-again")
    stored = gr.State("")
    upload = Upload(file, columns, prompt, completion, again, note, stored)
    outputs = [columns, prompt, completion, note, stored]

    def take(path: str | None) -> tuple[Any, ...]:
        return _take(home, path, None)

    def retake(path: str | None, asks: str | None, answers: str | None) -> tuple[Any, ...]:
        mapping = {"prompt": asks or "", "completion": answers or ""}
        return _take(home, path, mapping)

    file.upload(take, file, outputs, show_progress="minimal", api_visibility="private")
    again.click(retake, [file, prompt, completion], outputs, show_progress="minimal", api_visibility="private")
    return upload


def _take(home: Path, path: str | None, mapping: dict[str, str] | None) -> tuple[Any, ...]:
    """Reads and stores a file; yields updates for columns, prompt, completion, note and stored."""
    if not path:
        return gr.skip(), gr.skip(), gr.skip(), cards.error("Choose a file first."), gr.skip()
    name = Path(path).name
    try:
        reading = read_file(Path(path), name, mapping)
        card = store(reading, home, name)
    except PlaygroundError as failure:
        names = _columns(path, name)
        shown = gr.update(visible=len(names) >= 2)
        asks = mapping["prompt"] if mapping else None
        answers = mapping["completion"] if mapping else None
        return (
            shown,
            gr.update(choices=names, value=asks if asks in names else None),
            gr.update(choices=names, value=answers if answers in names else None),
            cards.error(str(failure)),
            gr.skip(),
        )
    roles = reading.layout.roles
    several = len(reading.columns) >= 2 and "messages" not in roles
    return (
        gr.update(visible=several),
        gr.update(choices=reading.columns, value=roles.get("prompt")),
        gr.update(choices=reading.columns, value=roles.get("completion")),
        _found(reading, card.train, card.validation, card.test),
        card.name,
    )


def _columns(path: str, name: str) -> list[str]:
    try:
        return columns_of(Path(path), name)
    except PlaygroundError:
        return []


def _found(reading: Reading, train: int, validation: int, test: int) -> str:
    """What was read, in one sentence, then what could not be."""
    text = f"{len(reading.rows)} rows read: {train} to learn from, {validation} to watch, {test} kept back as a test."
    if reading.duplicates:
        text += f" {reading.duplicates} of them repeat an earlier one."
    parts = [f'<p class="lp-note">{escape(text)}</p>']
    parts += [f'<p class="lp-note">{escape(note)}</p>' for note in reading.notes]
    if reading.bad:
        listed = "".join(f"<li>{escape(problem.text)}</li>" for problem in reading.problems[:SHOWN_PROBLEMS])
        left = reading.bad - min(SHOWN_PROBLEMS, len(reading.problems))
        more = f"<li>and {left} more</li>" if left > 0 else ""
        parts.append(
            f'<details class="lp-warning"><summary>{reading.bad} rows were left out</summary><ul>{listed}{more}</ul>'
            "</details>"
        )
    return "".join(parts)
