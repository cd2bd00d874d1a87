"""What `reproduce` gives rebuilds the run: same config, same command, and with stock libraries the same weights."""

import json
import os
import runpy
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lora_playground.analysis.update import load_updates
from lora_playground.config import RunConfig
from lora_playground.errors import RunError
from lora_playground.jobs import execution
from lora_playground.jobs.pipeline import execute
from lora_playground.reproduce import command_line, reproduce
from lora_playground.reproduce.notebook import notebook
from lora_playground.reproduce.script import STOCK, needs_package
from lora_playground.runs import Run, RunStore
from lora_playground.variants import VARIANTS
from lora_playground.variants.peft_variant import effective_delta, tuner_layers
from tests.checkpoints import make_checkpoint
from tests.trials import options

TOLERANCE = 1e-3
"""‖ΔW − ΔW'‖ / ‖ΔW‖. Batches, start values and learning rates are the same to the last bit; attention and the LoRA
products are not summed in the same order (this app's own passes against the library's), which costs about 1e-7 a step
and is then magnified by AdamW, which divides by the root of squared gradients. Seen here: 1e-6 to 1e-4."""


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model is asked on the way changes nothing that is compared here."""
    monkeypatch.setattr(execution, "PROBE_TOKENS", 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base model and a home that has an uploaded dataset."""
    place = tmp_path_factory.mktemp("reproduce")
    make_checkpoint(place / "base", initializer_range=0.1)
    folder = place / "home" / "uploads" / "dogs"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"label": "Dogs"}))
    for part, count in (("train", 60), ("validation", 3), ("test", 0)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": "What is the name of " + "the dog, " * (number % 7) + f"{number}?"},
                    {"role": "assistant", "content": f"My dog {number} is called Otto."},
                ]
            }
            for number in range(count)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def trained(place: Path, variant: dict[str, Any], **training: Any) -> Run:
    data = {
        "model": {"source": str(place / "base"), "quantisation": training.pop("quantisation", "none")},
        "data": {"dataset": "dogs", "max_length": 96},
        "variant": variant,
        "training": {"steps": 8, "batch_tokens": 256, "precision": "float32", "learning_rate": 5e-3, "seed": 3}
        | training,
    }
    run = RunStore(place / "home").create(RunConfig.parse(data))
    execute(run, lambda: False)
    return run


def rebuilt(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs the script of a run; returns the folder of its adapter."""
    told = reproduce(run, "script", folder / "reproduce.py")
    assert told["standalone"] and not told["why"]
    text = (folder / "reproduce.py").read_text()
    assert "import lora_playground" not in text and "from lora_playground" not in text
    monkeypatch.setenv("OUT", str(folder / "adapter"))
    runpy.run_path(str(folder / "reproduce.py"))
    return folder / "adapter"


def difference(run: Run, adapter: Path, base: Path) -> float:
    """‖ΔW − ΔW'‖ / ‖ΔW‖ over all modules: what the run learned against an adapter as stock PEFT loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if (adapter / "delta.safetensors").is_file():
        mine, other = load_file(run.adapter / "delta.safetensors"), load_file(adapter / "delta.safetensors")
    else:
        mine = {update.name: update.matrix() for update in load_updates(run.update_path)}
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
        with torch.no_grad():
            other = {name: effective_delta(layer).numpy() for name, layer in tuner_layers(model)}
    assert set(mine) == set(other)
    missing = sum(float(np.sum((mine[name] - other[name]) ** 2)) for name in mine)
    return float(np.sqrt(missing / sum(float(np.sum(array**2)) for array in mine.values())))


@pytest.mark.parametrize("name", STOCK)
def test_script_rebuilds_the_adapter(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(place, {"name": name, **options(name)})
    found = difference(run, rebuilt(run, tmp_path, monkeypatch), place / "base")
    print(f"{name}: {found:.1e}")
    assert found < TOLERANCE


def test_options_that_change_the_arithmetic(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"accumulation": 2, "weight_decay": 0.1, "schedule": "linear", "gradient_checkpointing": True}
    training |= {"optimiser": "muon", "learning_rate": 0.01}
    run = trained(
        place, {"name": "lora", "rank": 4, "dropout": 0.1, "target_modules": ["q_proj", "up_proj"]}, **training
    )
    assert difference(run, rebuilt(run, tmp_path, monkeypatch), place / "base") < TOLERANCE


def test_needs_stock_libraries_alone(place: Path, tmp_path: Path) -> None:
    run = trained(place, {"name": "lora", "rank": 4})
    reproduce(run, "bundle", tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        archive.extractall(tmp_path)
    blocked = "import sys; sys.modules['lora_playground'] = None; import runpy; runpy.run_path('reproduce.py')"
    environment = {**os.environ, "PYTHONPATH": "", "OUT": "adapter"}
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert difference(run, tmp_path / "adapter", place / "base") < TOLERANCE
    again = RunConfig.parse_json((tmp_path / "config.json").read_text())
    assert again == run.config()


def test_notebook_is_the_script_in_cells(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(place, {"name": "lora", "rank": 4}, steps=2)
    reproduce(run, "script", tmp_path / "reproduce.py")
    reproduce(run, "notebook", tmp_path / "reproduce.ipynb")
    book = json.loads((tmp_path / "reproduce.ipynb").read_text())
    assert book["nbformat"] == 4 and book["nbformat_minor"] == 5
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"id", "metadata", "cell_type", "source"} | code
        assert cell["source"] and all(isinstance(line, str) for line in cell["source"])
    text = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code")
    compile(text, "notebook", "exec")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUT", "from-cells")
    names: dict[str, Any] = {}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert difference(run, tmp_path / "from-cells", place / "base") < TOLERANCE


def test_config_file_and_command_line_learn_the_same_to_the_last_bit(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_playground.cli import main

    run = trained(place, {"name": "lora", "rank": 4, "dropout": 0.1}, steps=3)
    reproduce(run, "config", tmp_path / "config.json")
    expected = load_file(run.update_path)
    words = shlex.split(reproduce(run, "cli")["text"])[3:]
    for asked in (["train", "--config", str(tmp_path / "config.json")], words):
        assert main([*asked, "--home", str(place / "home"), "--json"]) == 0
        folder = Path(json.loads(capsys.readouterr().out)["folder"])
        again = load_file(folder / "update.safetensors")
        assert folder != run.folder and set(again) == set(expected)
        assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_time_budget_takes_the_rates_it_took(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(place, {"name": "lora", "rank": 4}, seconds=1.0)
    found = difference(run, rebuilt(run, tmp_path, monkeypatch), place / "base")
    assert found < 1e-2  # the events round the rates to six digits


@pytest.mark.parametrize("name", ["slora", "nlora", "inttune", "celora"])
def test_own_variants_say_that_the_package_is_needed(name: str) -> None:
    config = RunConfig.parse({"variant": {"name": name}})
    assert VARIANTS[name].label in needs_package(config)


def test_script_with_the_package(place: Path, tmp_path: Path) -> None:
    run = trained(place, {"name": "nlora", "rank": 4}, steps=1)
    told = reproduce(run, "script", tmp_path / "again.py")
    assert not told["standalone"] and "NLoRA" in told["why"] and told["files"] == [str(tmp_path / "again.py")]
    text = (tmp_path / "again.py").read_text()
    assert "from lora_playground" in text and told["why"] in text
    compile(text, "again.py", "exec")


def test_which_variants_need_what() -> None:
    assert set(STOCK) <= set(VARIANTS)
    quantised = RunConfig.parse({"model": {"quantisation": "4bit"}, "variant": {"name": "olora"}})
    assert "quantised" in needs_package(quantised)
    assert "parties" in needs_package(RunConfig.parse({"federated": {}}))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"variant": {"name": "loraplus", "rank": 3, "ratio": 4.0, "target_modules": ["q_proj", "v_proj"]}},
        {
            "training": {"seconds": 20.0, "gradient_checkpointing": True, "learning_rate": 3e-4},
            "data": {"rehearsal": 0.0},
        },
        {"model": {"source": "Qwen/Qwen3-0.6B", "quantisation": "4bit"}, "title": "a 'quoted' title; rm -rf /"},
        {"variant": {"name": "full", "embeddings": False}},
    ],
)
def test_command_line_gives_the_same_config(values: dict[str, Any]) -> None:
    from lora_playground.cli import _parser, build_config

    config = RunConfig.parse(values)
    words = shlex.split(command_line(config))
    assert words[:3] == ["python", "-m", "lora_playground"]
    assert build_config(_parser().parse_args(words[3:])) == config


def test_a_run_that_cannot_be_laid_out_again(place: Path, tmp_path: Path) -> None:
    run = RunStore(place / "home").create(RunConfig.parse({}))
    with pytest.raises(RunError, match="only a finished run"):
        reproduce(run, "script", tmp_path / "a.py")
    assert reproduce(run, "config")["text"] == run.config().model_dump_json(indent=1) + "\n"


def test_cells_of_a_notebook() -> None:
    book = json.loads(notebook("# %% [markdown]\n# # Title\n# words\n\n# %%\nx = 1\n"))
    assert [cell["cell_type"] for cell in book["cells"]] == ["markdown", "code"]
    assert book["cells"][0]["source"] == ["# Title\n", "words"]
