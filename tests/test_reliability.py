"""The table in docs/reliability.md has every case, and the tests that it names exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_the_table_has_all_cases() -> None:
    numbers = [
        int(number) for row in re.findall(r"^\| ([\d, ]+) \|", TABLE, re.MULTILINE) for number in row.split(", ")
    ]
    assert sorted(numbers) == list(range(1, 65))


def test_the_tests_it_names_exist() -> None:
    file, known = "", dict[str, set[str]]()
    for path, name in re.findall(r"`((?:tests/\S+\.py)?)::(\w+)`", TABLE):
        file = path or file
        if file not in known:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            known[file] = {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        assert name in known[file], f"{file}::{name}"
