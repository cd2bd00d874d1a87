"""The check of the code's shape: what it reports, on small trees made for it."""

from pathlib import Path

import pytest

from tools import structure


@pytest.fixture
def tree(tmp_path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / "lora_playground" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path

    write("__init__.py", "")
    return write


def test_long_modules_and_functions_are_named(tree):
    tree("long.py", "x = 1\n" * (structure.MODULE_LINES + 1))
    root = tree("deep.py", "def f():\n" + "    x = 1\n" * structure.FUNCTION_LINES)
    found = structure.problems(root)
    assert len(found) == 2 and "f has 61 lines" in found[0] and "long.py: 401 lines" in found[1]


@pytest.mark.parametrize("text", ["from lora_playground.a import x", "def f():\n    from lora_playground import a"])
def test_a_circle_is_named_wherever_the_import_stands(tree, text):
    tree("a.py", "import lora_playground.b\nx = 1\n")
    root = tree("b.py", text + "\n")
    (found,) = structure.problems(root)
    assert "lora_playground.a -> " in found and "lora_playground.b -> " in found


def test_a_tidy_tree_has_no_problem(tree):
    tree("a.py", "x = 1\n")
    assert structure.problems(tree("b.py", "from lora_playground.a import x\n")) == []
