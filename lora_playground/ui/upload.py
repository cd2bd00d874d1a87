"""The upload in the form: makes a dataset of a file or a hub dataset at once, lets people choose its columns, and says
which rows cannot be used.

`data.readers` reads the files; this module knows no run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lora_playground.data.from_hub import columns_of_hub, read_hub
from lora_playground.data.readers import Reading, columns_of, read_file
from lora_playground.data.uploads import note_owner, store, uploads_of
from lora_playground.errors import DataError, PlaygroundError
from lora_playground.ui import cards
from lora_playground.ui.controls import Dropdown, offer
from lora_playground.ui.shell import Shell
from lora_playground.ui.words import escape
from lora_playground.wording import counted

SHOWN_PROBLEMS = 50
NOTHING = ("(nothing)", "")
"""The choice of no column. Without a column of answers, that of questions holds chats or plain texts."""


@dataclass
class Upload:
    """The parts of the upload.

    Attributes:
        file: the gr.File. repo, part, fetch: a hub dataset, which of its parts, and the button that fetches it.
        roles: the columns of questions, answers, additions to the question, and instructions. labels: whether the
            answers are class labels. seed: of the split into parts. again: button that reads with these columns.
        note: what was found, or what is wrong.
        origin: gr.State with what was read last: a path, or (id, part) of a hub dataset.
        stored: gr.State with the id of the last stored dataset; the form listens to its `change`.
    """

    file: gr.File
    repo: gr.Textbox
    part: gr.Textbox
    fetch: gr.Button
    columns: gr.Column
    roles: list[gr.Dropdown]
    labels: gr.Checkbox
    seed: gr.Number
    again: gr.Button
    note: gr.HTML
    origin: gr.State
    stored: gr.State


def build(shell: Shell) -> Upload:
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
        with gr.Row():
            repo = gr.Textbox(
                label="or a hub dataset", placeholder="openai/gsm8k", elem_id="lp-hub-repo",
                min_width=150, max_lines=1,
            )  # fmt: skip
            part = gr.Textbox("train", label="its part", elem_id="lp-hub-part", min_width=90, max_lines=1, scale=0)
        fetch = gr.Button("Fetch it", size="sm", elem_id="lp-hub-fetch")
        note = gr.HTML("", apply_default_css=False, elem_id="lp-upload-note")
        with gr.Column(visible=False, elem_id="lp-columns") as columns:
            roles = _role_inputs()
            labels = gr.Checkbox(
                False, label="The answers are labels", info="a classification: the question lists them",
                elem_id="lp-upload-labels",
            )  # fmt: skip
            seed = gr.Number(
                0, label="Seed", info="of the split into rows to learn from, to watch, to test with", precision=0,
                minimum=0, elem_id="lp-upload-seed",
            )  # fmt: skip
            again = gr.Button("Read it with these columns", size="sm", elem_id="lp-upload-again")
    upload = Upload(file, repo, part, fetch, columns, roles, labels, seed, again, note, gr.State(None), gr.State(""))
    _connect(shell, upload)
    return upload


def _role_inputs() -> list[gr.Dropdown]:
    """Dropdowns for the columns, in the order of `Upload.roles`."""
    described = (
        ("Asks", "the question; or all of it"),
        ("Answers", "what is learned; nothing: the first is a chat or text"),
        ("Adds", "to the question, such as a text to work on"),
        ("Instructs", "a system prompt"),
    )
    made = []
    for first in (0, 2):
        with gr.Row():
            for label, info in described[first : first + 2]:
                made.append(Dropdown([], label=label, info=info, filterable=False, min_width=120))
    return made


def _connect(shell: Shell, made: Upload) -> None:
    home = shell.home
    outputs = [made.columns, *made.roles, made.labels, made.note, made.origin, made.stored]
    looks: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}

    def counted(request: gr.Request, take: Callable[[], list[Any]]) -> list[Any]:
        """Reads an upload if its person may have another one, and stores who owns it."""
        visitor = shell.visitor(request)
        try:
            shell.supervisor.limits.check_uploads(uploads_of(home, visitor))
        except PlaygroundError as failure:
            return [*[gr.skip()] * 6, cards.error(str(failure)), gr.skip(), gr.skip()]
        found = take()
        if isinstance(found[-1], str):
            note_owner(home, found[-1], visitor)
        return found

    def take(path: str | None, seed: float | None, request: gr.Request) -> list[Any]:
        return counted(request, lambda: _take(home, path, [], seed))

    def fetch(repo: str | None, part: str | None, seed: float | None, request: gr.Request) -> list[Any]:
        return counted(request, lambda: _take(home, (repo or "", part or "train"), [], seed))

    def retake(request: gr.Request, origin: Any, seed: float | None, labels: bool, *roles: str | None) -> list[Any]:
        return counted(request, lambda: _take(home, origin, [role or "" for role in roles], seed, labels))

    made.file.upload(take, [made.file, made.seed], outputs, **looks)
    asked = [made.repo, made.part, made.seed]
    gr.on([made.fetch.click, made.repo.submit, made.part.submit], fetch, asked, outputs, **looks)
    made.again.click(retake, [made.origin, made.seed, made.labels, *made.roles], outputs, **looks)


def _take(home: Path, origin: Any, roles: list[str], seed: float | None, labels: bool = False) -> list[Any]:
    """Reads and stores a file or a hub dataset.

    Returns updates for the columns, the four roles, whether the answers are labels, note, origin and stored.
    """
    left_alone = [gr.skip()] * 6
    if not origin or not all(origin):
        return [*left_alone, cards.error("Choose a file, or name a dataset of the hub."), gr.skip(), gr.skip()]
    try:
        reading = _read(origin, roles, labels)
        card = store(reading, home, Path(origin).name if isinstance(origin, str) else " ".join(origin), int(seed or 0))
    except PlaygroundError as failure:
        names = _columns(origin)
        chosen = [role if role in names else "" for role in roles] or [""] * 4
        return [*_columns_shown(names, chosen), gr.skip(), cards.error(str(failure)), origin, gr.skip()]
    found = reading.layout.roles
    asks = found.get("prompt") or found.get("messages") or found.get("text") or ""
    answers = found.get("completion") or found.get("names") or found.get("label") or ""
    chosen = [asks, answers, found.get("input") or found.get("context") or "", found.get("system", "")]
    summary = _found(reading, card.train, card.validation, card.test)
    return [*_columns_shown(reading.columns, chosen), reading.layout.classifies, summary, origin, card.name]


def _read(origin: Any, roles: list[str], labels: bool = False) -> Reading:
    """Reads with the chosen columns. Raises DataError for a column that would have no effect."""
    asks, answers, adds, instructs = roles or [""] * 4
    beside = {role: column for role, column in (("input", adds), ("system", instructs)) if column}
    if labels and asks and answers:
        return _read_as(origin, {"text": asks, "label": answers, **beside})
    if answers or not asks:
        named = {"prompt": asks, "completion": answers, **beside}
        mapping = {role: column for role, column in named.items() if column} if roles else None
        if mapping is not None and not asks:
            raise DataError("Choose which column asks; with nothing as the answer it is taken as a chat or plain text.")
        return _read_as(origin, mapping)
    try:
        return _read_as(origin, {"messages": asks, **beside})
    except DataError:
        return _read_as(origin, {"text": asks, **beside})


def _read_as(origin: Any, mapping: dict[str, str] | None) -> Reading:
    if isinstance(origin, str):
        return read_file(Path(origin), Path(origin).name, mapping)
    return read_hub(origin[0], origin[1], mapping, anonymous=True)


def _columns_shown(names: list[str], chosen: list[str]) -> list[Any]:
    """Updates for the group of columns and its four dropdowns."""
    several = [offer([NOTHING, *((name, name) for name in names)], value) for value in chosen]
    return [gr.update(visible=bool(names)), *several]


def _columns(origin: Any) -> list[str]:
    try:
        return columns_of(Path(origin), Path(origin).name) if isinstance(origin, str) else columns_of_hub(*origin)
    except PlaygroundError:
        return []


def _found(reading: Reading, train: int, validation: int, test: int) -> str:
    """A sentence on what was read, and the rows that could not be."""
    parts_of = f"{train} to learn from, {validation} to watch, {test} kept back as a test"
    text = f"{counted(len(reading.rows), 'row')} read: {parts_of}."
    parts = [f'<p class="lp-note">{escape(text)}</p>']
    parts += [f'<p class="lp-note">{escape(note)}</p>' for note in reading.notes]
    if reading.duplicates:
        some = ", ".join(map(str, reading.repeats[:SHOWN_PROBLEMS]))
        more = " and others" if reading.duplicates > SHOWN_PROBLEMS else ""
        many = reading.duplicates > 1
        summary = counted(
            reading.duplicates,
            "row repeats an earlier one; it was kept",
            many="rows repeat earlier ones; they were kept",
        )
        where = f"{reading.unit.capitalize()}{'s' if many else ''} {some}{more}."
        parts.append(f'<details class="lp-warning"><summary>{summary}</summary><p>{where}</p></details>')
    if reading.bad:
        listed = "".join(f"<li>{escape(problem.text)}</li>" for problem in reading.problems[:SHOWN_PROBLEMS])
        left = reading.bad - min(SHOWN_PROBLEMS, len(reading.problems))
        more = f"<li>and {left} more</li>" if left > 0 else ""
        out = counted(reading.bad, "row was left out", many="rows were left out")
        parts.append(f'<details class="lp-warning"><summary>{out}</summary><ul>{listed}{more}</ul></details>')
    return "".join(parts)
