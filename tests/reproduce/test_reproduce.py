"""What `reproduce` gives rebuilds the run: same config, same command, and with stock libraries the same weights."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lora_playground.analysis.update import load_updates
from lora_playground.config import RunConfig
from lora_playground.jobs.pipeline import execute
from lora_playground.reproduce import reproduce
from lora_playground.reproduce.script import STOCK
from lora_playground.runs import Run, RunStore
from lora_playground.variants.peft_variant import effective_delta, tuner_layers
from tests.checkpoints import make_checkpoint
from tests.variants.trials import options

TOLERANCE = 1e-3
"""‖ΔW − ΔW'‖ / ‖ΔW‖. Batches, start values and learning rates are the same to the last bit; attention and the LoRA
products are not summed in the same order (this app's own passes against the library's), which costs about 1e-7 a step
and is then magnified by AdamW, which divides by the root of squared gradients. Seen here: 1e-6 to 1e-4."""


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
