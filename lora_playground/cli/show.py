"""Prints the value of a command for people (with `--json` it is printed as JSON instead)."""

from __future__ import annotations

import sys
from typing import Any


def show_train(value: dict[str, Any]) -> None:
    first, last = (f"{value['losses'][i]:.3f}" if value["losses"] else "–" for i in (0, -1))
    print(f"run {value['run']} {value['state']}: loss {first} → {last} in {value['train_seconds']:.1f} s")
    print(f"  {value['trainable_parameters']:,} trained parameters, {value['tokens_per_second']:,.0f} tokens/s")
    if value["score"]:
        score = value["score"]
        sure = f", {score['low']:.0%} to {score['high']:.0%} with 95% confidence" if "low" in score else ""
        both = f"base {score['base']:.1%} → adapted {score['adapted']:.1%}"
        print(f"  {score['metric']}: {both} ({score['n']} rows{sure})")
        if "reference" in score:
            print(f"  the file's own answers get {score['reference']:.1%} by this measure")
        if "macro_f1" in score:
            f1, majority = score["macro_f1"], score["majority"]
            print(f"  macro F1: {f1['base']:.2f} → {f1['adapted']:.2f}; always the most frequent label: {majority:.1%}")
    if value["forgetting"]:
        print(f"  base skills: {value['forgetting']['base']:.1%} → {value['forgetting']['adapted']:.1%}")
    print(f"  {value['folder']}")


def show_chat(value: dict[str, Any]) -> None:
    print(f"base:    {value['base']}\nadapted: {value['adapted']}")


def show_spectra(value: dict[str, Any]) -> None:
    for module in value["modules"]:
        shape = "×".join(str(size) for size in module["shape"])
        leading = " ".join(f"{sigma:.3g}" for sigma in module["singular_values"][:8])
        print(f"{module['name']:48} {shape:>12}  effective rank {module['effective_rank']:5.2f}  σ {leading}")


def show_variants(value: list[dict[str, Any]]) -> None:
    for variant in value:
        print(f"{variant['name']:12} {variant['sentence']}\n{'':12} {variant['paper']}")


def show_pairs(value: dict[str, Any], indent: str = "") -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{indent}{key}:")
            show_pairs(item, indent + "  ")
        else:
            print(f"{indent}{key}: {item}")


def show_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("(none yet)", file=sys.stderr)
        return
    cells = [[_cell(row[key]) for key in rows[0]] for row in rows]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(rows[0])]
    for line in [list(rows[0]), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_reproduced(value: dict[str, Any]) -> None:
    """Prints the text if there is one, else which files were written and whether they need this package."""
    if value["text"] is not None and not value["files"]:
        print(value["text"], end="")
        return
    for path in value["files"]:
        print(path)
    if value["why"]:
        print(f"The package lora_playground is needed to run it. {value['why']}")


def show_estimate(value: dict[str, Any]) -> None:
    """Prints memory by cause in MB, and the time from start to result."""
    print(
        f"{value['trainable']:,} of {value['parameters']:,} parameters, adapter {value['adapter_bytes'] / 1e6:,.1f} MB"
    )
    for cause, size in value["causes"].items():
        least = f"{value['beside'][0] / 1e6:,.0f} to" if cause == "runtime" else ""
        print(f"  {cause:12} {least:>10} {size / 1e6:10,.0f} MB")
    print(f"  {'at most':12} {value['least'] / 1e6:7,.0f} to {value['total'] / 1e6:10,.0f} MB on {value['device']}")
    if flops := value["flops_per_step"]:
        print(f"  {'arithmetic':12} {'':>10} {flops / 1e9:10,.1f} GFLOP a step")
    if time := value["time"]:
        seen = {"processor": "the processor's speed"}.get(time["source"], f"{time['runs']} earlier runs")
        print(f"  {'time':12} {time['seconds'][0]:7,.0f} to {time['seconds'][1]:10,.0f} s, going by {seen}")
