"""The command `claims`: what papers claim, what came out here, and the verdict. It measures nothing."""

from __future__ import annotations

import argparse
from typing import Any

from lora_playground.service import catalogue


def claims(given: argparse.Namespace) -> list[dict[str, Any]]:
    """`claims`: one row a claim."""
    return catalogue.claims()


def show_claims(value: list[dict[str, Any]]) -> None:
    """A claim a line, with its verdict and why."""
    for one in value:
        print(f"{one['name']:22} {one['verdict']}\n{'':22} {one['title']}. {one['why']}")
