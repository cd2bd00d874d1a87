"""The command `claims`: what papers claim, what came out here, and the verdict. It measures nothing."""

from __future__ import annotations

import argparse
import statistics
from typing import Any


def claims(given: argparse.Namespace) -> list[dict[str, Any]]:
    """`claims`: one row a claim."""
    from lora_playground.claims import list_claims, verdict
    from lora_playground.claims.measured import measurement

    rows = []
    for claim in list_claims():
        found = measurement(claim.name)
        judged = verdict(claim, found)
        values = {key: round(statistics.fmean(numbers), 6) for key, numbers in found.values.items()} if found else {}
        rows.append({
            "name": claim.name, "title": claim.title, "paper": claim.paper, "url": claim.url, "claim": claim.claim,
            "here": claim.here, "verdict": judged.verdict, "why": judged.why,
            "measured": (found.figures or values) if found else {}, "value": judged.value, "interval": judged.interval,
            "seeds": len(found.seeds) if found else 0, "command": claim.command,
        })  # fmt: skip
    return rows


def show_claims(value: list[dict[str, Any]]) -> None:
    """A claim a line, with its verdict and why."""
    for one in value:
        print(f"{one['name']:22} {one['verdict']}\n{'':22} {one['title']}. {one['why']}")
