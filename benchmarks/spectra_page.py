"""Pictures and words of the lesson in docs/spectra.md, from the numbers that `spectra_lesson` took. It trains nothing.

The pictures are the app's own figures, drawn by plotly.js in Chromium. Every sentence follows from the numbers: where
they do not show what one would expect, it says what they show.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground import plots
from lora_playground.plots.spectrum import short_name
from lora_playground.plots.style import axis, figure, percent, significant

ROOT = Path(__file__).resolve().parent.parent
PAGE, FOLDER = ROOT / "docs" / "spectra.md", ROOT / "docs" / "spectra"
BEGIN, END = "<!-- lesson: written by benchmarks/spectra_lesson.py -->", "<!-- /lesson -->"
WIDTH, HEIGHT, SCALE = 860, 400, 1.5
COLOURS = {"style": plots.run_colour(0), "facts": plots.run_colour(1)}
WORDS = ("style", "facts")
MAIN_KINDS = ("q_proj", "v_proj")


# --- pictures ---------------------------------------------------------------------------------------------------------


def figures(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{file name: figure}."""
    names = {word: f"{word} ({found[word]['dataset']})" for word in WORDS}
    scree = plots.scree_figure([(names[w], COLOURS[w], found[w]["values"]) for w in WORDS], rank=found["rank"])
    scree["layout"]["title"]["text"] = f"LoRA r = {found['rank']}: σᵢ / σ₁, median over the modules"
    scree["layout"]["yaxis"]["title"]["text"] = "σᵢ / σ₁ (log)"
    ones = {word: found[f"{word}_full"]["one"] for word in WORDS}
    full = plots.scree_figure(
        [(names[w], COLOURS[w], ones[w]["values"]) for w in WORDS],
        points=256,
        edge=[(ones[w]["edge"], COLOURS[w]) for w in WORDS],
    )
    full["layout"]["title"]["text"] = f"Full fine-tuning: ΔW of {short_name(ones['style']['module'])}"
    made = {"scree": scree, "cut": cut_figure(found, names), "ranks": ranks_figure(found, names), "full": full}
    for kind in MAIN_KINDS:
        phi = found["inside"]["left"].get(kind)
        if phi:
            square = plots.square_figure(phi["phi"], ("r = 8", COLOURS["style"]), ("r = 64", COLOURS["facts"]))
            square["layout"]["title"]["text"] = f"φ(i, j), what they write: {kind}, mean over the layers"
            made[f"square-{kind.removesuffix('_proj')}"] = square
    for one in made.values():
        one["layout"] |= {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff"}
    return made


def cut_figure(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of the gain in loss and in score over k."""
    data = []
    for word in WORDS:
        for what, dash in (("loss", "solid"), ("score", "dot")):
            values = [kept(found[word][what], i) for i in range(len(found["ks"]))]
            line = {"x": list(found["ks"]), "y": values, "mode": "lines+markers", "marker": {"size": 6}}
            look = {"line": {"color": COLOURS[word], "width": 2.5, "dash": dash}}
            data.append({**line, **look, "name": f"{names[word]}: {what}"})
    x = axis("directions kept of every module, k (0 is the base)", tickvals=list(found["ks"]))
    y = axis("share of the gain that is kept", tickformat=".0%")
    title = "Cut and ask again: what k directions keep of the gain"
    return figure(data, title, HEIGHT, xaxis=x, yaxis=y, showlegend=True)


def trained_at(found: Mapping[str, Any], word: str, what: str) -> list[tuple[int, float]]:
    """(rank, loss or score) of the runs that were trained at that rank from the start, the rank of the base being 0."""
    one = found[word]
    points = [(0, one[what][0]), *((rank, found[f"{word}_{rank}"][what][0]) for rank in found["low"])]
    return [*points, (found["rank"], one[what][-1])]


def ranks_figure(found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The score of runs trained at rank k, beside that of the r = 16 run cut to k."""
    data = []
    for word in WORDS:
        trained = trained_at(found, word, "score")
        cut = list(zip(found["ks"], found[word]["score"], strict=True))
        for points, dash, what in ((trained, "solid", "trained at k"), (cut, "dot", f"r = {found['rank']} cut to k")):
            line = {"x": [k for k, _ in points], "y": [y for _, y in points], "mode": "lines+markers"}
            look = {"line": {"color": COLOURS[word], "width": 2.5, "dash": dash}, "marker": {"size": 6}}
            data.append({**line, **look, "name": f"{names[word]}: {what}"})
    x = axis("directions of every module, k (0 is the base)", tickvals=list(found["ks"]))
    y = axis("score", tickformat=".0%", range=[0, 1.05])
    title = "What rank buys: trained at k, or trained at 16 and cut to k"
    return figure(data, title, HEIGHT, xaxis=x, yaxis=y, showlegend=True)


def kept(values: Sequence[float], index: int) -> float:
    """Share of the change from the base (first) to the whole adapter (last) that is there at `index`."""
    change = values[-1] - values[0]
    return (values[index] - values[0]) / change if abs(change) > 1e-9 else 0.0


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """Writes every figure as a small PNG."""
    from PIL import Image
    from playwright.sync_api import sync_playwright
    from plotly.offline import get_plotlyjs

    given = os.environ.get("LORA_PLAYGROUND_CHROMIUM")
    chromium = given or next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), "")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium or None, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_content("<div id=plot></div>")
        page.add_script_tag(content=get_plotlyjs())
        for name, one in figures(found).items():
            size = {"width": WIDTH // 2 if name.startswith("square") else WIDTH, "height": HEIGHT}
            image = page.evaluate(
                "async ([one, size]) => { await Plotly.newPlot('plot', one.data, {...one.layout, ...size});"
                f" return Plotly.toImage('plot', {{format: 'png', scale: {SCALE}, ...size}}); }}",
                [one, size],
            )
            with Image.open(io.BytesIO(base64.b64decode(image.split(",", 1)[1]))) as picture:
                picture.convert("RGB").quantize(64).save(folder / f"{name}.png", optimize=True)
        browser.close()


# --- words ------------------------------------------------------------------------------------------------------------


def style_and_facts(found: Mapping[str, Any]) -> str:
    """Which of the two needs more directions, by spectrum."""
    style, facts, r = found["style"], found["facts"], found["rank"]
    lead = {
        True: f"**The style leans on one direction, facts use more of the {r}.**",
        False: f"**By their spectra, style and facts of this run use about as many of the {r} directions.**",
    }[style["first"] > facts["first"] and style["effective_rank"] < 0.95 * facts["effective_rank"]]
    return (
        f"{lead} The strongest direction of every module holds {percent(style['first'])} of the style's energy and "
        f"{percent(facts['first'])} of that of facts; 90% takes {style['energy_rank_90']:.0f} and "
        f"{facts['energy_rank_90']:.0f} directions; the effective rank is {significant(style['effective_rank'])} and "
        f"{significant(facts['effective_rank'])} (medians over {style['modules']} modules)."
    )


def cut_words(found: Mapping[str, Any]) -> str:
    """What one and four directions keep, in loss and in score."""
    ks = list(found["ks"])
    one, four = ks.index(1), ks.index(4)
    share = {word: [kept(found[word]["loss"], i) for i in (one, four)] for word in WORDS}
    lead = "**What counts is what a cut leaves.**"
    if share["style"][0] >= 0.8 > share["facts"][0]:
        lead = "**The style is nearly rank one, facts are not.**"
    elif share["style"][0] > share["facts"][0] + 0.1:
        lead = "**The style survives a cut to one direction better than facts do.**"
    elif share["facts"][0] > share["style"][0] + 0.1:
        lead = "**Here facts survived a cut to one direction better than the style.**"
    text = (
        f"{lead} Of the drop in validation loss one direction a module keeps {percent(share['style'][0])} for the "
        f"style and {percent(share['facts'][0])} for facts; four keep {percent(share['style'][1])} and "
        f"{percent(share['facts'][1])}."
    )
    for word in WORDS:
        scores = found[word]["score"]
        text += (
            f" The score of {word}: {percent(scores[0])} (base), {percent(scores[one])} (one direction), "
            f"{percent(scores[four])} (four), {percent(scores[-1])} (all {ks[-1]})."
        )
    return text


def ranks_words(found: Mapping[str, Any]) -> str:
    """Whether one trained direction is enough for style and for facts: by score, beside r = 16 of the same steps."""
    share, loss = {}, {}
    for word in WORDS:
        score = dict(trained_at(found, word, "score"))
        share[word] = score[1] / score[found["rank"]] if score[found["rank"]] else 0.0
        drop = dict(trained_at(found, word, "loss"))
        loss[word] = (drop[0] - drop[1]) / (drop[0] - drop[found["rank"]])
    lead = "**One trained direction is not enough for either.**"
    if share["style"] >= 0.85 and share["facts"] < 0.7:
        lead = "**To learn, style needs one direction, facts need more.**"
    elif share["style"] > share["facts"] + 0.1:
        lead = "**Trained at rank one, style comes nearer to its full score than facts do.**"
    elif min(share.values()) >= 0.85:
        lead = "**One trained direction is enough for both.**"
    parts = []
    for word in WORDS:
        scores = ", ".join(f"{percent(y)} (r = {k})" for k, y in trained_at(found, word, "score")[1:])
        more = ""
        if word == "facts":
            two = found["inside"]
            others = [percent(two[size]["score"][0]) for size in ("small", "large")]
            more = f"; other seeds {others[0]} (r = 8), {others[1]} (r = 64)"
        whole = percent(found[f"{word}_full"]["score"][0])
        parts.append(f"{word} {scores}{more}, {whole} (full fine-tuning)")
    return (
        f"{lead} Trained from the start at rank r, each with its α = 2r, the scores are: {'; '.join(parts)}. "
        f"Of the drop in validation loss that r = {found['rank']} reaches, r = 1 reaches {percent(loss['style'])} for "
        f"the style and {percent(loss['facts'])} for facts. A cut after training asks something else than a rank "
        "chosen before it: an update that may use 16 directions spreads what it learns over several, also where one "
        "would have been enough."
    )


def full_words(found: Mapping[str, Any]) -> str:
    """How low-rank full fine-tuning is, beside LoRA."""
    parts, rank = [], found["rank"]
    for word in WORDS:
        one = found[f"{word}_full"]
        energy = one["energy"][min(rank, len(one["energy"])) - 1]
        parts.append(
            f"{word}: effective rank {significant(one['effective_rank'])} (median of the modules; "
            f"the smallest have {len(one['values'])} directions), {percent(energy)} of the energy in the first {rank} "
            f"directions, {significant(one['above'])} directions above the edge "
            f"of noise with {percent(one['share'])} of the energy"
        )
    seen = [(w, found[w]["beside"], found[f"{w}_full"]["beside"]) for w in WORDS]
    intruding = "; ".join(
        f"{w}: {lora['intruders']} of {lora['looked_at']} for LoRA, {full['intruders']} of {full['looked_at']} for full"
        for w, lora, full in seen
    )
    amplified = "; ".join(
        f"{w}: {significant(lora['factor'])} for LoRA (random directions {significant(lora['factor_random'])}), "
        f"{significant(full['factor'])} for full ({significant(full['factor_random'])})"
        for w, lora, full in seen
    )
    heads = [found[f"{word}_full"]["energy"][min(rank, len(found[f"{word}_full"]["energy"])) - 1] for word in WORDS]
    lead = "**Full fine-tuning has every rank, and its spectrum decays slowly.** "
    if min(heads) >= 0.5:
        lead = "**Full fine-tuning has every rank, and decays: most of its energy lies in few directions.** "
    return (
        lead + "; ".join(parts) + ". Beside the base, intruder "
        f"dimensions among the ten strongest directions of W + ΔW of every module (ε = 0.5): {intruding}. "
        f"Amplification ‖ΔW‖/‖UᵀWV‖, median: {amplified}."
    )


def square_words(found: Mapping[str, Any]) -> str:
    """How much of r = 8 lies within r = 64, against chance."""
    sides = [found["inside"][side] for side in ("left", "right")]
    written = list(sides[0].values())
    over = [one["held"] / min(1.0, one["chance"] * len(one["phi"][0])) for one in written]
    shared = sorted(one["phi"][0][0] for one in written)[len(written) // 2]
    lead = "**r = 8 lies within r = 64 hardly more than by chance.**"
    if min(over) > 1.2:
        lead = "**What r = 8 writes lies within r = 64 more than by chance, in every kind of module; not wholly.**"
    if min(one["held"] for one in written) > 0.8:
        lead = "**What r = 8 writes lies within r = 64.**"
    first = "have the same strongest direction" if shared >= 0.5 else "have strongest directions alike, not the same"
    lines = [
        "| module | writes: energy of r = 8 within r = 64 | φ(1, 1) | φ(8, 64) | reads: energy | φ(1, 1) | φ(8, 64) |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in sides[0]:
        cells = []
        for side in sides:
            one = side[kind]
            width = len(one["phi"][0])
            chance = min(1.0, one["chance"] * width)
            cells += [
                f"{percent(one['held'])} ({percent(chance)})",
                f"{one['phi'][0][0]:.2f} ({one['chance']:.3f})",
                f"{one['phi'][-1][width - 1]:.2f} ({chance:.2f})",
            ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return (
        f"{lead} Same facts, other starts; the two {first} (median φ(1, 1) of what they write: {shared:.2f}). Means "
        "over the layers, with what chance gives in brackets:\n\n" + "\n".join(lines)
    )


def section(found: Mapping[str, Any]) -> str:
    """The lesson in Markdown."""
    squares = [kind.removesuffix("_proj") for kind in MAIN_KINDS if kind in found["inside"]["left"]]
    images = " ".join(f'<img src="spectra/square-{k}.png" width="49%" alt="φ(i, j) of {k}">' for k in squares)
    return "\n\n".join(
        [
            BEGIN,
            f"{6 + 2 * len(found['low'])} runs of {found['steps']} steps of {found['tokens']} tokens on the embedded "
            f"model, one seed each; losses and scores are taken on {found['rows']} rows. "
            f"`python benchmarks/spectra_lesson.py --steps {found['steps']}` trains, measures, draws and writes this "
            "section; with `--draw` it does the "
            "last two from `spectra/lesson.json`.",
            "![Singular values of style and facts](spectra/scree.png)",
            style_and_facts(found),
            "![What a cut leaves](spectra/cut.png)",
            cut_words(found),
            "![What rank buys](spectra/ranks.png)",
            ranks_words(found),
            "![Full fine-tuning](spectra/full.png)",
            full_words(found),
            images,
            square_words(found),
            END,
        ]
    )


def write(found: Mapping[str, Any], page: Path) -> str:
    """Puts the section where the page has its marks; returns it."""
    text, made = page.read_text(encoding="utf-8"), section(found)
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + made + after, encoding="utf-8")
    return made
