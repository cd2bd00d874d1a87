"""The command `claims`: lists claims of papers with what was measured for them and the verdict. It measures nothing."""

from __future__ import annotations

import argparse
from typing import Any

from lora_playground.service import catalogue


def claims(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`claims`: one row a claim."""
    return catalogue.claims()


def show_claims(value: list[dict[str, Any]]) -> None:
    """Prints one line for each claim, with its verdict and the reason."""
    for one in value:
        print(f"{one['name']:22} {one['verdict']}\n{'':22} {one['title']}. {one['why']}")
