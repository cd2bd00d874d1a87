"""Converts a script with `# %%` marks to a Jupyter notebook (nbformat 4.5). It does not know what the script does."""

from __future__ import annotations

import json


def notebook(script: str) -> str:
    """The notebook's JSON: every `# %%` begins a code cell, `# %% [markdown]` a text cell."""
    cells = []
    for number, part in enumerate(script.split("# %%")[1:]):
        head, _, body = part.partition("\n")
        lines = body.strip("\n").splitlines(keepends=True)
        cell: dict[str, object] = {"id": f"cell-{number}", "metadata": {}}
        if "[markdown]" in head:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
            cell |= {"cell_type": "markdown", "source": lines}
        else:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": [], "source": lines}
        cells.append(cell)
    whole = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
