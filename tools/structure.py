"""Checks the shape of the code: no module or function too long, no circle of imports. It runs nothing of it.

python -m tools.structure
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

MODULE_LINES = 400
FUNCTION_LINES = 60
FOLDERS = ("lora_playground", "tools", "benchmarks", "tests")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name of every module below `root`, and its file."""
    files = [root / "app.py"] + [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    found = {}
    for path in sorted(filter(Path.is_file, files)):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def too_long(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    """One line for a module over MODULE_LINES, and for each function over FUNCTION_LINES."""
    length = len(text.splitlines())
    if length > MODULE_LINES:
        yield f"{path}: {length} lines; at most {MODULE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines; at most {FUNCTION_LINES}"


def imported(name: str, path: Path, tree: ast.Module, known: dict[str, Path]) -> set[str]:
    """The modules of `known` that a module imports, wherever the import stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = ".".join(part for part in (above if node.level else "", node.module) if part)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return {target for target in found if target in known and target != name}


def circle(graph: dict[str, set[str]]) -> str:
    """One circle of imports as 'a -> b -> a', or ''."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def problems(root: Path) -> list[str]:
    """Everything that breaks a rule, one line each."""
    known, found, graph = modules(root), [], {}
    for name, path in known.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        found += too_long(path.relative_to(root), text, tree)
        graph[name] = imported(name, path, tree, known)
    around = circle(graph)
    return [*found, *([f"circle of imports: {around}"] if around else [])]


def main() -> None:
    found = problems(Path.cwd())
    print("\n".join(found) or "Structure: no module or function too long, no circle of imports.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
