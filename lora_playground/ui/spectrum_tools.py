"""The lower part of the tab Spectrum: cut an adapter, ask with it, save it; export numbers and figures; import
adapters.

It knows the views, run folders and imports; it draws through the views and trains nothing.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from lora_playground.analysis.truncation import Truncation
from lora_playground.errors import PlaygroundError
from lora_playground.exchange.importing import Imported, derive, import_files, import_from_hub
from lora_playground.jobs import truncation_curve
from lora_playground.models.catalogue import list_models
from lora_playground.plots import cut_figure, describe_cut
from lora_playground.plots.style import empty
from lora_playground.ui import cards
from lora_playground.ui import spectrum_views as views
from lora_playground.ui.controls import Dropdown, Radio, Slider, bounds
from lora_playground.ui.shell import QUIET, Shell, draw, heading, note, picture, with_ticked
from lora_playground.ui.spectrum_cache import SpectrumCache
from lora_playground.ui.words import escape

if TYPE_CHECKING:
    from lora_playground.runs import RunStore

MODES = [
    ("all", "all"), ("strongest k", "top"), ("weakest k", "bottom"), ("a range", "range"), ("one", "one"),
]  # fmt: skip
PICTURES = [
    ("the map", "map"), ("the scree", "scree"), ("directions as pixels", "directions"),
    ("shared directions", "square"), ("what two have in common", "overlap"),
    ("amplification", "amplified"), ("alignment with W", "aligned"), ("the intruders", "intruders"),
    ("energy kept", "energy"), ("loss and score over k", "curve"),
]  # fmt: skip
_SAVE = """(name) => { const kind = 'KIND'; const plot = document.querySelector(`#lp-spec-${name} .js-plotly-plot`);
  if (!plot || !window.Plotly) return;
  const layout = {...plot.layout, paper_bgcolor: '#ffffff', plot_bgcolor: '#ffffff'};
  window.Plotly.downloadImage({data: plot.data, layout: layout}, {format: kind, scale: kind === 'png' ? 3 : 1,
    width: 1100, height: 620, filename: `lora-playground-${name}`}); }"""
"""On white in any theme of the page, so that it can be read on slides."""
_TO_CHAT = """() => { lp.open('Chat');
  const again = () => document.getElementById('lp-again').click();
  if (document.querySelector('.lp-pane .lp-turn')) setTimeout(again, 400); }"""
"""If a question has been asked, the same one is asked again, with the same noise."""

_LARGE = (
    '<p class="lp-note">Only <code>adapter_config.json</code> and <code>adapter_model.safetensors</code> are read; no '
    "pickle is opened. Over 20 MB: <code>python -m lora_playground import FOLDER</code> on this machine.</p>"
)

Subjects = Callable[[Sequence[str]], list[views.Subject]]


class Tools:
    """Cut, curve, export, import."""

    def __init__(self, shell: Shell, cache: SpectrumCache) -> None:
        self._shell, self._cache = shell, cache

    def build(self) -> None:
        """Makes the parts where it is called."""
        heading("Cut and ask again", "keep only some directions of every module", folded="yes")
        with gr.Row(elem_classes="lp-spec-controls", equal_height=False):
            self.mode = Radio(MODES, value="all", label="Keep", elem_classes="lp-chips", elem_id="lp-spec-mode")
            self.k = Slider(0, 8, value=1, step=1, label="k", visible=False, buttons=[], elem_id="lp-spec-k")
            self.first = Slider(
                1, 8, value=1, step=1, label="from direction", visible=False, buttons=[], elem_id="lp-spec-from"
            )
            self.last = Slider(
                1, 8, value=2, step=1, label="to direction", visible=False, buttons=[], elem_id="lp-spec-to"
            )
            self.strength = Slider(
                -2, 2, value=1, step=0.05, label="Strength", info="1 as trained, 0 the base, below 0 its opposite",
                buttons=[], elem_id="lp-spec-strength",
            )  # fmt: skip
        with gr.Row(elem_classes="lp-plots", equal_height=False):
            with gr.Column(min_width=300):
                self.energy, self.energy_words = picture("lp-spec-energy")
                with gr.Row(elem_classes="lp-spec-ways"):
                    self.ask = gr.Button("Ask it in Chat", variant="primary", elem_id="lp-spec-ask")
                    self.save = gr.Button("Save as a plain LoRA", elem_id="lp-spec-save")
                self.said = gr.HTML("", apply_default_css=False, elem_id="lp-spec-said")
            with gr.Column(min_width=300):
                self.curve, self.curve_words = picture("lp-spec-curve")
                with gr.Row(elem_classes="lp-spec-ways"):
                    self.measure = gr.Button("Measure loss and score over k", elem_id="lp-spec-measure-cut")
                self.waiting = gr.Timer(1.5, active=False)
        title = "Take along, bring in: figures, numbers, adapters"
        with gr.Accordion(title, open=False, elem_id="lp-spec-files-fold", elem_classes="lp-fold"):
            self._files()
        # A download button offers the file that it had before the click, so a hidden button gets the new file.
        self.download = gr.DownloadButton(
            "file", elem_id="lp-spec-download", elem_classes="lp-hidden", visible="hidden"
        )

    def _files(self) -> None:
        with gr.Row(elem_classes="lp-spec-files", equal_height=False):
            with gr.Column(min_width=280):
                self.which = Dropdown(PICTURES, value="scree", label="Picture", filterable=False)
                with gr.Row(elem_classes="lp-spec-ways"):
                    self.png = gr.Button("PNG", elem_id="lp-spec-png", min_width=70)
                    self.svg = gr.Button("SVG", elem_id="lp-spec-svg", min_width=70)
                    self.html = gr.Button("All as HTML", elem_id="lp-spec-html", min_width=120)
                with gr.Row(elem_classes="lp-spec-ways"):
                    self.csv = gr.Button("Numbers as CSV", elem_id="lp-spec-csv", min_width=120)
                    self.json = gr.Button("Numbers as JSON", elem_id="lp-spec-json", min_width=120)
            with gr.Column(min_width=320):
                self.upload = gr.File(
                    label="An adapter: its zip, or its two files",
                    file_count="multiple", elem_id="lp-spec-upload", height=160,
                )  # fmt: skip
                self.hub = gr.Textbox(
                    "", label="or from the hub", placeholder="somebody/some-adapter", elem_id="lp-spec-hub",
                    max_length=200,
                )  # fmt: skip
                self.base = Dropdown(_bases(), value="", label="Its base model", filterable=False)
                self.bring = gr.Button("Import", elem_id="lp-spec-import")
                gr.HTML(_LARGE, apply_default_css=False)
                self.brought = gr.HTML("", apply_default_css=False, elem_id="lp-spec-brought")

    def cut_inputs(self) -> list[Any]:
        return [self.mode, self.k, self.first, self.last, self.strength]

    def outputs(self) -> list[Any]:
        """What `refreshed` updates."""
        return [self.k, self.first, self.last, self.energy, self.energy_words, self.curve, self.curve_words]

    def refreshed(self, subject: views.Subject | None, *given: Any) -> list[Any]:
        """Updates of the sliders' bounds and both figures for the run in focus and the chosen cut."""
        mode, k, first, last, strength = given
        longest = max(2, views.longest(subject)) if subject else 2
        sliders = [bounds(least, longest, value) for least, value in ((0, k), (1, first), (1, last))]
        cut = views.make_cut(mode, sliders[0]["value"], sliders[1]["value"], sliders[2]["value"], strength)
        return [*sliders, *self._energy(subject, cut), *self._curve(subject, cut)]

    # --- what is connected to what -----------------------------------------------------------------------------------

    def connect(
        self, subjects: Subjects, focus: gr.Radio, inputs: list[Any], pictures: Callable[..., list[views.View]]
    ) -> None:
        """Connects the elements. `subjects` reads the ticked runs, `pictures` returns all views with the present
        choices."""
        self._subjects = subjects
        chosen = [self._shell.ticked, focus, *self.cut_inputs()]
        shown = [self.energy, self.energy_words, self.curve, self.curve_words]
        self.mode.input(self.fit, self.mode, [self.k, self.first, self.last], **QUIET)
        changed = [self.mode.input, *(part.input for part in (self.k, self.first, self.last, self.strength))]
        gr.on(changed, self.cut, chosen, shown, **QUIET)
        self.ask.click(self.to_chat, [*chosen, self._shell.tuning], [self._shell.tuning, self.said], **QUIET).success(
            None, None, None, js=_TO_CHAT
        )
        slow: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private", "concurrency_limit": 4}
        self.save.click(self.keep, chosen, [self.said, self._shell.ticked], **slow)
        self.measure.click(self.begin, chosen, [self.curve_words, self.waiting], **QUIET)
        self.waiting.tick(self.look, chosen, [self.curve, self.curve_words, self.waiting], **QUIET)
        for button, kind in ((self.png, "png"), (self.svg, "svg")):
            button.click(None, self.which, None, js=_SAVE.replace("KIND", kind))
        files: tuple[tuple[gr.Button, Callable[..., str]], ...] = (
            (self.csv, lambda ticked, *_: _file("spectra.csv", views.as_csv(views.numbers(subjects(ticked))))),
            (self.json, lambda ticked, *_: _file("spectra.json", views.as_json(views.numbers(subjects(ticked))))),
            (self.html, lambda *given: _file("spectra.html", views.as_html(pictures(*given), "Spectra"))),
        )
        for button, make in files:
            button.click(make, inputs, self.download, **slow).success(
                None, self.download, None, js="(file) => lp.fetch(file)"
            )
        self.bring.click(
            self.take_in, [self.upload, self.hub, self.base, self._shell.ticked],
            [self.brought, self._shell.ticked, self.upload, self.hub], **slow,
        )  # fmt: skip

    # --- cut ---------------------------------------------------------------------------------------------------------

    def _focused(self, ticked: Sequence[str], focus: str | None) -> views.Subject | None:
        found = self._subjects(ticked)
        return next((one for one in found if one.shown.run.id == focus), found[0] if found else None)

    def fit(self, mode: str) -> tuple[Any, Any, Any]:
        """Shows the sliders that a mode needs."""
        return (
            gr.update(visible=mode in ("top", "bottom")),
            gr.update(visible=mode in ("range", "one"), label="direction" if mode == "one" else "from direction"),
            gr.update(visible=mode == "range"),
        )

    def cut(self, ticked: list[str], focus: str, *given: Any) -> list[Any]:
        """Energy and curve for the chosen cut."""
        subject = self._focused(ticked, focus)
        try:
            chosen = views.make_cut(*given)
        except PlaygroundError as failure:
            return [gr.skip(), cards.error(str(failure)), gr.skip(), gr.skip()]
        return [*self._energy(subject, chosen), *self._curve(subject, chosen)]

    def _energy(self, subject: views.Subject | None, cut: Truncation) -> list[Any]:
        figure, words = views.cut_view(subject, cut)
        return [draw(figure), note(words)]

    def _curve(self, subject: views.Subject | None, cut: Truncation | None) -> list[Any]:
        if subject is None:
            return [draw(empty("", "What is left of loss and score", 340)), ""]
        found = truncation_curve.read(subject.shown.run)
        kept = cut.k if cut is not None and cut.mode == "top" else None
        if found is None:
            title = "What is left when only the first k directions are kept"
            words = "Not measured yet: it answers the test questions once for every k."
            return [draw(empty("Press “Measure loss and score over k”.", title, 340)), note(words)]
        energy = [views.energy_kept(subject.frames.values[-1], Truncation("top", k=k)) for k in found["k"]]
        figure = cut_figure(found["k"], found["loss"], found["score"], subject.colour, energy, kept)
        words = describe_cut(found["k"], found["loss"], found["score"])
        if not found.get("done"):
            words = f"Measuring, {len(found['k'])} of {found['planned']} done. {words}"
        return [draw(figure), note(words)]

    def to_chat(self, ticked: list[str], focus: str, *given: Any) -> tuple[Any, Any]:
        """Passes cut and strength of the run in focus to the tab Chat."""
        *choice, tuning = given
        subject = self._focused(ticked, focus)
        if subject is None:
            raise gr.Error("Tick a run first.", print_exception=False)
        chosen = views.make_cut(*choice)
        kept = chosen.kept(views.longest(subject))
        cut = None if chosen.mode == "all" else [kept.start, kept.stop]
        if chosen.mode == "bottom" and kept.stop > kept.start:
            cut = [-chosen.k, 0]  # the k weakest of each module, which can have different numbers of directions
        tuned = {"strength": chosen.strength, "keep": cut[1] if cut and cut[0] == 0 else None, "cut": cut}
        words = f'<p class="lp-note" role="status">Chat now uses {escape(chosen.describe())}.</p>'
        return {**(tuning or {}), subject.shown.run.id: tuned}, words

    def keep(self, request: gr.Request, ticked: list[str], focus: str, *given: Any) -> tuple[Any, Any]:
        """Saves the cut adapter as a plain LoRA, in a run of its own that is then ticked."""
        subject = self._focused(ticked, focus)
        if subject is None:
            return cards.error("Tick a run first."), gr.skip()
        try:
            chosen = views.make_cut(*given)
            updates = self._cache.decomposition(subject.shown.run).truncate(chosen)
            title, visitor = f"{subject.label}: {chosen.describe()}", self._shell.visitor(request)
            self._shell.supervisor.check_kept(visitor)
            made = derive(self._shell.store, subject.shown.run, updates, title, {"cut": vars(chosen)})
            self._shell.supervisor.adopt(made.id, visitor)
        except PlaygroundError as failure:
            return cards.error(str(failure)), gr.skip()
        words = (
            f'<p class="lp-note" role="status">Saved as the run “{escape(title)}”, a plain LoRA that PEFT loads.</p>'
        )
        return words, with_ticked(ticked, [made.id])

    # --- curve -------------------------------------------------------------------------------------------------------

    def begin(self, ticked: list[str], focus: str, *_: Any) -> tuple[Any, Any]:
        """Starts to measure the curve, in a process of its own."""
        subject = self._focused(ticked, focus)
        if subject is None:
            return cards.error("Tick a run first."), gr.skip()
        try:
            truncation_curve.start(subject.shown.run)
        except PlaygroundError as failure:
            return cards.error(str(failure)), gr.skip()
        words = '<p class="lp-note" role="status">Loading the model, then one point after another appears.</p>'
        return words, gr.Timer(active=True)

    def look(self, ticked: list[str], focus: str, *given: Any) -> list[Any]:
        """Draws the points measured so far. Ends after the last one, or with an error."""
        subject = self._focused(ticked, focus)
        if subject is None:
            return [gr.skip(), gr.skip(), gr.Timer(active=False)]
        run = subject.shown.run
        going = truncation_curve.running(run)
        found = truncation_curve.read(run)
        if found is None:
            if going:
                return [gr.skip(), gr.skip(), gr.skip()]
            return [gr.skip(), cards.error(truncation_curve.failure(run)), gr.Timer(active=False)]
        drawn = self._curve(subject, views.make_cut(*given))
        if not going and not found.get("done"):
            drawn[1] = cards.error(truncation_curve.failure(run))
        return [*drawn, gr.skip() if going else gr.Timer(active=False)]

    # --- import ------------------------------------------------------------------------------------------------------

    def take_in(
        self, files: list[str] | None, hub: str, base: str, ticked: list[str], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Makes a run of an uploaded adapter, or of one on the hub, and ticks it. Yields progress meanwhile."""
        if not files and not hub.strip():
            yield cards.error("Choose a zip, or the two files of an adapter, or give a hub id."), *[gr.skip()] * 3
            return
        visitor = self._shell.visitor(request)
        try:
            self._shell.supervisor.check_kept(visitor)
        except PlaygroundError as failure:
            yield cards.error(str(failure)), *[gr.skip()] * 3
            return
        work = _Work(self._shell.store, [Path(file) for file in files or []], hub.strip(), base or None)
        shown = ""
        while work.thread.is_alive():
            if work.words != shown:
                shown = work.words
                yield f'<p class="lp-note" role="status">{escape(shown)}</p>', *[gr.skip()] * 3
            work.thread.join(0.4)
        if work.done is None:
            yield cards.error(work.failure), gr.skip(), None, gr.skip()
            return
        self._shell.supervisor.adopt(work.done.run.id, visitor)
        notes = "".join(f'<p class="lp-warning">{escape(words)}</p>' for words in work.done.notes)
        label = escape(work.done.run.label)
        words = f'<p class="lp-note" role="status">Imported as the run “{label}”, and ticked.</p>{notes}'
        yield words, with_ticked(ticked, [work.done.run.id]), None, ""


class _Work:
    """An import in a thread of its own, so that the page can show its progress."""

    def __init__(self, store: RunStore, files: list[Path], hub: str, base: str | None) -> None:
        self.words = "Reading the adapter …" if files else f"Fetching {hub} from the hub …"
        self.done: Imported | None = None
        self.failure = ""
        self._given = store, files, hub, base
        self.thread = threading.Thread(target=self._run, name="import", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        store, files, hub, base = self._given
        try:
            if files:
                stem = files[0].stem if len(files) == 1 else ""
                self.done = import_files(store, files, stem, base, self._tell)
            else:
                self.done = import_from_hub(store, hub, base=base, progress=self._tell)
        except PlaygroundError as failure:
            self.failure = str(failure)
        except OSError as failure:
            self.failure = f"It could not be written ({failure.strerror}). Free some space and try again."
        finally:
            if self.done is None and not self.failure:
                self.failure = "The import ended unexpectedly; the server's log says why. Nothing was kept."

    def _tell(self, done: int, total: int) -> None:
        self.words = f"Decomposing its updates: {done} of {total} modules done."


def _bases() -> list[tuple[str, str]]:
    return [("find it by the adapter's shapes", ""), *((card.label, card.source) for card in list_models())]


def _file(name: str, text: str) -> str:
    """Writes a file into a new temporary folder, from which Gradio serves it; returns its path."""
    path = Path(tempfile.mkdtemp(prefix="lora-playground-")) / name
    path.write_text(text, encoding="utf-8")
    return str(path)
