"""The laboratory's commands: `merge` mixes runs, `direction` reads one singular direction of a run, `dial` scores a run
while a factor varies, `forecast` compares the first gradient with what a run learned."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from lora_playground.analysis.merging import Recipe
from lora_playground.cli.flags import add_section_flags, section_given, within
from lora_playground.cli.progress import Progress
from lora_playground.errors import ConfigError
from lora_playground.runs import RunStore
from lora_playground.service.operation_options import DialOptions, DirectionOptions, WeightsOptions


def add(command: Callable[[str, Callable, Callable, str], argparse.ArgumentParser]) -> None:
    """Adds the laboratory's commands."""
    add_merge_flags(command("merge", merge, show_merge, "mix 2 to 4 runs of one base"))
    add_direction_flags(command("direction", direction, show_direction, "what one direction of a run reads and says"))
    turn = command("dial", dial, show_dial, "a run's score and what it forgot while one dial turns")
    turn.add_argument("run")
    add_section_flags(turn, DialOptions)
    command("forecast", forecast, show_forecast, "what the first gradient foretold of a run").add_argument("run")


def forecast(args: argparse.Namespace) -> dict[str, Any]:
    """`forecast`: how far the first gradient predicted the directions that a run learned."""
    from lora_playground.lab.forecast import forecast as of_run

    with Progress() as progress:
        return of_run(RunStore(args.home), args.run, partial(progress.count, unit="batches"))


def show_forecast(value: dict[str, Any]) -> None:
    """Prints one line for each module."""
    for name, one in value["modules"].items():
        shown = " ".join(f"{r:.0%}/{w:.0%}" for r, w in zip(one["reads"][:6], one["writes"][:6]))
        print(f"{name:48} {one['foretold']} of {len(one['reads'])} foretold   reads/writes {shown}")
    means = [f"{side} {value[side]:.0%} (by chance {value[f'{side}_chance']:.0%})" for side in ("reads", "writes")]
    print(f"{value['foretold']} of {value['of']} directions foretold; on average {', '.join(means)}")


def add_merge_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `merge`."""
    parser.add_argument("runs", nargs="+", metavar="RUN=W", help="2 to 4 runs with weights from -2 to 2 (default 1)")
    add_section_flags(parser, WeightsOptions)
    parser.add_argument("--prompt", help="ask base, each run and the mixture")
    parser.add_argument("--max-new-tokens", type=within(1, 4096, int), default=64)
    parser.add_argument("--scores", action="store_true", help="score every run's task over the weights, with controls")
    parser.add_argument("--save", metavar="TITLE", help="keep the mixture as a run: a plain LoRA")


def merge(args: argparse.Namespace) -> dict[str, Any]:
    """`merge`: mixes runs; returns key figures and, on request, answers and scores. Saves the mixture on request."""
    from lora_playground.analysis.merging import Mixture
    from lora_playground.lab import mixing

    store = RunStore(args.home)
    ids, weights = zip(*(_weighed(text) for text in args.runs))
    ways = section_given(WeightsOptions, args)
    recipe = Recipe(ways.method, ways.density, ways.rank, ways.seed)
    chosen = mixing.mixed(store, ids, weights, recipe)
    adapters = chosen.adapters()
    made = Mixture(adapters, recipe).updates(chosen.weights)
    value = mixing.numbers(chosen, made, adapters)
    if args.prompt:
        value["answers"] = _answers(chosen.model, [None, *adapters, made], args.prompt, args.max_new_tokens)
    if args.scores:
        from lora_playground.lab.weights import over_weights

        with Progress() as progress:
            value |= over_weights(store, chosen, ways.rows, lambda done, of: progress.count(done, of, "scores"))
    if args.save is not None:
        value["saved"] = mixing.save(store, chosen, args.save).id
    return value


def _weighed(text: str) -> tuple[str, float]:
    id, _, weight = text.partition("=")
    try:
        return id, float(weight or 1)
    except ValueError:
        raise ConfigError("RUN=W", text, "W is a number from -2 to 2") from None


def _answers(model: Any, rows: list[Any], prompt: str, longest: int) -> list[str]:
    """The base's answer, each run's, and the mixture's last; greedy."""
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.loading import load_base

    base = load_base(model)
    decoder = Decoder(base.model, base.tokenizer)
    updates = [None if row is None else RowUpdate(decoder.adapter(row)) for row in rows]
    return decoder.generate([[{"role": "user", "content": prompt}]] * len(rows), updates, max_new_tokens=longest)


def show_merge(value: dict[str, Any]) -> None:
    """Prints the mixture, its answers and its scores."""
    for part, norm in zip(value["runs"], value["norms"]):
        print(f"{part['weight']:+5.2f} × {part['label']}  (‖ΔW‖ {norm:.3g})  {part['run']}")
    rank = f", rank up to {value['rank']}" if value["rank"] else ""
    print(f"{value['method']}: ‖ΔW‖ {value['norm']:.3g} in {value['modules']} modules{rank}")
    for name, answer in zip(["base", *(part["label"] for part in value["runs"]), "mixture"], value.get("answers", [])):
        print(f"{name}: {answer}")
    for point in value.get("points", []):
        weights = " ".join(f"{w:+.2f}" for w in point["weights"])
        scores = "  ".join("–" if s is None or s["value"] is None else f"{s['value']:.0%}" for s in point["scores"])
        print(f"{point['kind']:7} {weights:24} {scores}")
    for pair in value.get("pairs", []):
        labels = [value["runs"][pair[side]]["label"] for side in ("first", "second")]
        on_data = "–" if pair["on_data"] is None else f"{pair['on_data']:.2f}"
        shared = f"cosine {pair['cosine']:+.2f}, reads the same {pair['reads']:.0%} (chance {pair['reads_chance']:.0%})"
        lost = "–" if pair["drop"] is None else f"{pair['drop']:+.0%}"
        print(f"{labels[1]} beside {labels[0]}: {shared}, ‖ΔW₂h‖/‖ΔW₁h‖ {on_data}, score lost {lost}")
    if "saved" in value:
        print(f"saved as run {value['saved']}")


def add_direction_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `direction`."""
    parser.add_argument("run")
    parser.add_argument("--module", required=True, metavar="NAME", help="such as model.layers.0.mlp.down_proj")
    add_section_flags(parser, DirectionOptions)


def direction(args: argparse.Namespace) -> dict[str, Any]:
    """`direction`: what one direction responds to and which words it promotes; answers with it alone and without it."""
    from lora_playground.lab.reading import read_direction

    ways = section_given(DirectionOptions, args)
    return read_direction(
        RunStore(args.home), args.run, args.module, ways.index, ways.prompt, ways.seed, ways.strength,
        ways.max_new_tokens,
    )  # fmt: skip


def dial(args: argparse.Namespace) -> dict[str, Any]:
    """`dial`: score and forgetting over the strength of the update, or of its intruder dimensions."""
    from lora_playground.lab.dials import over_dial

    ways = section_given(DialOptions, args)
    with Progress() as progress:
        tell = partial(progress.count, unit="scores")
        return over_dial(RunStore(args.home), args.run, ways.of, ways.values or (), ways.rows, tell)


def show_dial(value: dict[str, Any]) -> None:
    """Prints one line for each value of the factor."""
    if "intruders" in value:
        print(f"{sum(value['intruders'].values())} intruders in {len(value['intruders'])} of {value['of']} modules")
    for point in value["points"]:
        score, lost = point["score"], point["forgetting"]
        kept = "" if lost is None else f"   base skills {lost['base']:.0%} → {lost['adapted']:.0%}"
        sure = f"{score['value']:.0%} [{score['low']:.0%}, {score['high']:.0%}]"
        print(f"{value['kind']} {point['value']:+5.2f}   task {sure}{kept}")


def show_direction(value: dict[str, Any]) -> None:
    """Prints what was read of the direction, and the answers."""
    print(f"{value['module']}, direction {value['index']} of {value['of']}, σ {value['sigma']:.4g}")
    print(value["sentence"])
    strongest = sorted(zip(value["reads"], value["tokens"]), key=lambda pair: -abs(pair[0]))[:8]
    print("reads:   " + "  ".join(f"{token!r} {size:+.3g}" for size, token in strongest))
    for side in ("raised", "lowered"):
        if value["says"]:
            print(f"{side:8} " + "  ".join(f"{one['token']!r} {one['z']:+.1f}" for one in value["says"][side]))
    for name, answer in value["answers"].items():
        print(f"{name:8} {answer}")
