"""The functions for a notebook: cheap to import, and the example runs from top to bottom."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "notebook.ipynb"


def test_importing_the_functions_loads_neither_torch_nor_gradio():
    script = (
        "from lora_playground import train, chat, spectra, load_run\n"
        "import lora_playground.chat.client, sys\n"
        "from lora_playground import chat as again\n"
        "assert callable(chat) and chat is again\n"
        "print([name for name in ('torch', 'gradio', 'transformers', 'peft', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_name_that_the_package_has_not_is_refused_as_python_does():
    import lora_playground

    with pytest.raises(AttributeError, match="nonesuch"):
        lora_playground.nonesuch  # noqa: B018


def test_the_example_runs_from_top_to_bottom(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("LORA_PLAYGROUND_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    plain = [output.get("data", {}).get("text/plain", output.get("text", "")) for output in shown]
    assert any("variant.rank: 0 is not allowed; it must be at least 1." in text for text in plain)
    assert "True" in plain, "at strength 0 the adapted model answers as the base does"
    assert "(True, 4, 20)" in plain
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    said = [text for text in plain if "20 of 20 steps" in text]
    assert said and ": done, loss" in "".join(plain)
