"""A finished run as files to download: each format by a process of its own, kept for the next time, or a reason."""

import asyncio
import json
import zipfile
from pathlib import Path

import pytest
from safetensors.numpy import load

from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from lora_playground.runs import RunStore
from lora_playground.service.exporting import note_of
from lora_playground.ui.exports import Exports
from tests.spectrum_runs import finished_run, updates

SHAPES = module_shapes(EMBEDDED)[:2]
SMALL = [("model.layers.0.self_attn.q_proj", 12, 16), ("model.layers.0.mlp.up_proj", 24, 16)]


@pytest.fixture
def made(tmp_path: Path):
    """(exports, run) on a home with one finished run."""
    run = finished_run(tmp_path, "small", updates(SHAPES, 2, 0.4), {"name": "lora", "rank": 2})
    place = tmp_path / "place"
    place.mkdir()
    return Exports(RunStore(tmp_path), place), run


def test_a_plain_lora_is_written_packed_and_kept(made):
    exports, run = made
    packed = asyncio.run(exports.make(run.id, "lora"))
    with zipfile.ZipFile(packed) as archive:
        config = json.loads(archive.read(f"{run.id}-lora/adapter_config.json"))
        tensors = load(archive.read(f"{run.id}-lora/adapter_model.safetensors"))
    assert config["peft_type"] == "LORA" and len(tensors) == 2 * len(SHAPES)
    stamp = packed.stat().st_mtime_ns
    assert asyncio.run(exports.make(run.id, "lora")).stat().st_mtime_ns == stamp, "made once"
    assert [path.name for path in packed.parent.iterdir()] == [packed.name], "nothing half made stays"
    assert note_of(packed) == "It is exact."


def test_how_near_a_dense_update_is_met_is_said_and_kept_with_the_file(tmp_path: Path):
    import numpy as np

    from lora_playground.analysis.update import Update

    rng = np.random.default_rng(0)
    fading = 0.4 ** np.arange(16)
    dense = [Update(name, dense=(rng.normal(size=(m, n)) * fading).astype(np.float32)) for name, m, n in SMALL]
    run = finished_run(tmp_path, "dense", dense, {"name": "dora", "rank": 2})
    place = tmp_path / "place"
    place.mkdir()
    exports = Exports(RunStore(tmp_path), place)
    exports.buttons = dict.fromkeys(("peft", "lora", "merged"))  # type: ignore[assignment]

    async def told() -> str:
        return [shown[1] async for shown in exports.listener("lora")(run.id)][-1]

    for _ in range(2):  # made, then offered again
        said = asyncio.run(told())
        assert "This is the nearest LoRA of rank up to" in said and "it misses" in said and "% of the update" in said


def test_what_cannot_be_exported_says_why_and_frees_the_buttons(made):
    exports, run = made
    run.update_path.write_bytes(b"no tensors")
    with pytest.raises(PlaygroundError) as failure:
        asyncio.run(exports.make(run.id, "lora"))
    assert "Traceback" not in str(failure.value) and len(str(failure.value)) < 400
    exports.buttons = dict.fromkeys(("peft", "lora", "merged"))  # type: ignore[assignment]

    async def told() -> list[tuple]:
        return [shown async for shown in exports.listener("lora")(run.id)]

    first, last = asyncio.run(told())
    assert first[0] is None and "Writing" in first[1] and all(not update["interactive"] for update in first[2:])
    assert last[0] is None and "could not be exported" in last[1] and all(update["interactive"] for update in last[2:])
    with pytest.raises(PlaygroundError, match="nobody"):
        asyncio.run(exports.make("nobody", "peft"))
