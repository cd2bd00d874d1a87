"""The lesson of docs/spectra.md on the embedded model: trains six short runs and draws what their updates are made of.

    python benchmarks/spectra_lesson.py [--steps 60] [--out docs/spectra]

Style against facts (LoRA, r = 16), full fine-tuning on both, and r = 8 against r = 64 on the same facts from other
starts. Writes scree.svg, cut.svg, full.svg, square.svg, lesson.json, and lesson.md with the pictures and what they say.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from variant_trials import Bench

from lora_playground.analysis.spectra import analyse, effective_rank, energy_captured, frobenius_norm
from lora_playground.analysis.subspaces import directions, random_similarity, similarity
from lora_playground.analysis.update import Update
from lora_playground.variants import VARIANTS

STYLE, FACTS = "pirate", "facts-medium"
KS = (0, 1, 2, 4, 8, 16)
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="13">'
COLOURS = {"style": "#c2571a", "facts": "#2b6cb0"}


def curves(updates: Sequence[Update]) -> dict[str, Any]:
    """Medians over the modules: sigma_i / sigma_1, energy in the first i, effective rank; and the share of the whole
    update's energy that is in the first direction of every module."""
    spectra = {name: s.values for name, s in analyse([u for u in updates if len(u.shape) == 2]).items()}
    values = [v for v in spectra.values() if v.size and v[0] > 0]
    length = min(v.size for v in values)
    return {
        "modules": len(values),
        "values": [float(x) for x in np.median([v[:length] / v[0] for v in values], 0)],
        "energy": [float(x) for x in np.median([energy_captured(v)[:length] for v in values], 0)],
        "effective_rank": float(np.median([effective_rank(v) for v in values])),
        "first": float(sum(v[0] ** 2 for v in values) / sum(frobenius_norm(v) ** 2 for v in values)),
    }


def losses(bench: Bench, updates: Sequence[Update], dataset: str, rows: int) -> list[float]:
    """Validation loss (nats per token) with the first k directions of every module, k in KS."""
    from lora_playground.config import RunConfig
    from lora_playground.data.catalogue import get_dataset
    from lora_playground.data.encoding import encode
    from lora_playground.jobs.cutcurve import _loss
    from lora_playground.models.decoding import Decoder, RowUpdate

    data = RunConfig.parse({"data": {"dataset": dataset}}).data
    found = get_dataset(dataset, bench.home)
    examples = encode(bench.base.tokenizer, found.validation[:rows], data.max_length).examples
    decoder = Decoder(bench.base.model, bench.base.tokenizer)
    adapter = decoder.adapter(updates)
    made = []
    for k in KS:
        loss = _loss(decoder, examples, RowUpdate(adapter, cut=(0, k)) if k else None)
        assert loss is not None
        made.append(loss)
    return made


def inside(small: Sequence[Update], large: Sequence[Update], kind: str, size: int = 8) -> dict[str, Any]:
    """phi(i, j) of the two runs' right directions, the mean over the modules of one kind, and what chance gives."""
    by_name = {update.name: update for update in large}
    squares, chance = [], []
    for update in small:
        if not update.name.endswith(kind):
            continue
        V1, V2 = directions(update), directions(by_name[update.name])
        squares.append(similarity(V1, V2)[:size, :64])
        chance.append(random_similarity(V1.shape[1], V2.shape[1], V1.shape[0])[:size, :64])
    height, width = (min(square.shape[axis] for square in squares) for axis in (0, 1))
    return {
        "kind": kind,
        "phi": np.mean([square[:height, :width] for square in squares], 0).round(4).tolist(),
        "chance": np.mean([square[:height, :width] for square in chance], 0).round(4).tolist(),
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Trains the runs one after the other and takes every number that the page states."""
    bench = Bench(home=given.home) if given.home else Bench()
    started = time.perf_counter()

    def trained(name: str, dataset: str, seed: int = 0, **options: Any) -> list[Update]:
        config = VARIANTS[name].config(**options)
        outcome, updates = bench.trial(name, config, dataset, seed, given.steps, given.tokens, None)
        spent = time.perf_counter() - started
        print(f"{name:5} {dataset:13} {options} loss {outcome.validation_end:.3f}  {spent:.0f} s", flush=True)
        return list(updates)

    found: dict[str, Any] = {"steps": given.steps, "tokens": given.tokens, "ks": KS}
    for word, dataset in (("style", STYLE), ("facts", FACTS)):
        updates = trained("lora", dataset, rank=16, alpha=32.0)
        found[word] = curves(updates) | {"dataset": dataset, "loss": losses(bench, updates, dataset, given.rows)}
        found[f"{word}_full"] = curves([u for u in trained("full", dataset) if "embed" not in u.name])
    small = trained("lora", FACTS, seed=1, rank=8, alpha=16.0)
    large = trained("lora", FACTS, seed=2, rank=64, alpha=128.0)
    found["inside"] = [inside(small, large, kind) for kind in ("q_proj", "v_proj", "down_proj")]
    found["minutes"] = round((time.perf_counter() - started) / 60, 1)
    return found


# --- pictures --------------------------------------------------------------------------------------------------------


def chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, log: bool = False) -> str:
    """An SVG of lines {name: (xs, ys)}, readable on light and dark ground; `log` draws y in decades."""
    width, height, left, bottom, top, right = 520, 300, 62, 46, 16, 16
    xs = [value for points, _ in lines.values() for value in points]
    ys = [value for _, points in lines.values() for value in points if not log or value > 0]
    low = max(min(ys), max(ys) * 1e-4) if log else min(0.0, min(ys))
    change = (lambda value: float(np.log10(max(value, low)))) if log else float
    bounds = change(low), change(max(ys))
    span = (bounds[1] - bounds[0]) or 1.0

    def px(value: float) -> float:
        return left + (value - min(xs)) / ((max(xs) - min(xs)) or 1) * (width - left - right)

    def py(value: float) -> float:
        return height - bottom - (change(value) - bounds[0]) / span * (height - top - bottom)

    parts = [
        HEAD.format(width, height),
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    if log:
        ticks = [10.0**e for e in range(int(np.ceil(bounds[0] - 1e-9)), int(np.floor(bounds[1] + 1e-9)) + 1)]
    else:
        ticks = [low + (max(ys) - low) * part / 4 for part in range(5)]
    for tick in ticks:
        parts.append(f'<path d="M{left} {py(tick):.1f}H{width - right}" stroke="#e2e2e2"/>')
        parts.append(f'<text x="{left - 6}" y="{py(tick) + 4:.1f}" text-anchor="end" fill="#444">{tick:.3g}</text>')
    for tick in sorted({min(xs), (min(xs) + max(xs)) // 2, max(xs)}):
        parts.append(f'<text x="{px(tick):.1f}" y="{height - 26}" text-anchor="middle" fill="#444">{tick:g}</text>')
    for number, (name, (points, values)) in enumerate(lines.items()):
        colour = next((c for word, c in COLOURS.items() if name.startswith(word)), "#555555")
        path = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(points, values) if not log or b > 0)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        row = top + 14 + 19 * number
        parts.append(f'<path d="M{width - 170} {row - 4}h22" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<text x="{width - 142}" y="{row}" fill="#222">{name}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle" fill="#222">{x}</text>')
    middle = (height - bottom) / 2
    parts.append(f'<text transform="translate(15 {middle}) rotate(-90)" text-anchor="middle" fill="#222">{y}</text>')
    return "".join([*parts, "</svg>\n"])


def squares(found: Sequence[dict[str, Any]]) -> str:
    """An SVG of phi(i, j) for each kind of module: i of r = 8 downwards, j of r = 64 across."""
    cell, gap, parts, x0 = 20, 4, [], 44
    height = 44 + sum(len(one["phi"]) * cell // 2 + 34 for one in found)
    y = 24
    for one in found:
        parts.append(
            f'<text x="{x0}" y="{y}" fill="#222">{one["kind"]}: i ≤ 8 of r = 8 down, j ≤ 64 of r = 64 across</text>'
        )
        for i, row in enumerate(one["phi"]):
            for j, value in enumerate(row):
                shade = round(255 * (1 - value))
                colour = f"rgb({shade},{min(255, shade + 40 * (1 - value)):.0f},255)" if value < 1 else "rgb(0,0,255)"
                x, top = x0 + j * cell // 2, y + 8 + i * cell // 2
                parts.append(f'<rect x="{x}" y="{top}" width="10" height="10" fill="{colour}"/>')
        y += len(one["phi"]) * cell // 2 + 34
    width = x0 + 64 * cell // 2 + gap + 20
    return "".join(
        [HEAD.format(width, height), f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *parts, "</svg>\n"]
    )


def kept(loss: Sequence[float], k: int) -> float:
    """Share of the drop in validation loss that the first k directions give."""
    return (loss[0] - loss[KS.index(k)]) / ((loss[0] - loss[-1]) or 1.0)


def page(found: dict[str, Any]) -> str:
    """The pictures and their numbers, in Markdown; every figure is from this run."""
    style, facts = found["style"], found["facts"]
    full = [
        f"{word}: effective rank {one['effective_rank']:.0f} of {len(one['values'])}, "
        f"{100 * one['energy'][min(15, len(one['energy']) - 1)]:.0f}% of the energy in the first 16 directions"
        for word, one in (("style", found["style_full"]), ("facts", found["facts_full"]))
    ]
    squares_ = []
    for one in found["inside"]:
        phi, chance = one["phi"], one["chance"]
        last = min(7, len(phi[-1]) - 1)
        squares_.append(
            f"{one['kind']} φ(1, 1) = {phi[0][0]:.2f} ({chance[0][0]:.3f}), "
            f"φ(8, 8) = {phi[-1][last]:.2f} ({chance[-1][last]:.3f})"
        )
    drops = {word: [100 * kept(found[word]["loss"], k) for k in (1, 4)] for word in ("style", "facts")}
    parts = [
        f"<!-- written by benchmarks/spectra_lesson.py: {found['steps']} steps of {found['tokens']} tokens a run -->",
        "![Singular values](spectra/scree.svg)",
        f"**Style and facts, LoRA r = 16.** Median over the modules: the style ({STYLE}) has effective rank "
        f"{style['effective_rank']:.1f} and {100 * style['first']:.0f}% of its energy in the first directions; "
        f"facts ({FACTS}) have {facts['effective_rank']:.1f} and {100 * facts['first']:.0f}%.",
        "![Loss over k](spectra/cut.svg)",
        f"**What a cut leaves.** Of the drop in validation loss, one direction a module keeps {drops['style'][0]:.0f}% "
        f"for the style and {drops['facts'][0]:.0f}% for facts; four keep {drops['style'][1]:.0f}% and "
        f"{drops['facts'][1]:.0f}%.",
        "![Full fine-tuning](spectra/full.svg)",
        "**Full fine-tuning.** Its update has all ranks, and decays: " + "; ".join(full) + ".",
        "![r = 8 within r = 64](spectra/square.svg)",
        "**r = 8 within r = 64**, same facts, other starts; φ(i, j), mean over the layers, with chance in brackets: "
        + "; ".join(squares_)
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=512, help="tokens a step")
    parser.add_argument("--rows", type=int, default=64, help="validation rows of the cut")
    parser.add_argument("--home", type=Path, default=None, help="where prepared data is kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "spectra")
    given = parser.parse_args()
    found = measure(given)
    given.out.mkdir(parents=True, exist_ok=True)

    def ranks(values: Sequence[float]) -> list[float]:
        return [float(k) for k in range(1, len(values) + 1)]

    lora = {word: found[word] for word in ("style", "facts")}
    dense = {f"{word}, full": found[f"{word}_full"] for word in ("style", "facts")}
    scree = {word: (ranks(one["values"]), one["values"]) for word, one in lora.items()}
    whole = {word: (ranks(one["values"]), one["values"]) for word, one in dense.items()}
    cut = {word: ([float(k) for k in KS], one["loss"]) for word, one in lora.items()}
    (given.out / "scree.svg").write_text(chart(scree, "direction i", "σᵢ / σ₁", log=True))
    (given.out / "full.svg").write_text(chart(whole, "direction i", "σᵢ / σ₁", log=True))
    (given.out / "cut.svg").write_text(chart(cut, "directions kept, k", "validation loss"))
    (given.out / "square.svg").write_text(squares(found["inside"]))
    (given.out / "lesson.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.out / "lesson.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
