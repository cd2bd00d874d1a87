"""What the documents promise exists: scripts and their options."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:benchmarks|tools)/[\w/]+\.py[^`\n|]*")
COMMANDS = sorted({found for document in DOCUMENTS for found in COMMAND.findall(document.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_document_names_a_script_that_has_its_options(command: str) -> None:
    script, *options = command.split()
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in options:
        if re.match("--[a-z]", option):
            assert f'"{option.split("=")[0]}"' in source, f"{script} has no option {option}"
