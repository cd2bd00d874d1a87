"""The curve over k: against the model's own loss with weights merged by hand, and how it starts and ends."""

import json
import sys

import numpy as np
import pytest
import torch

from lora_playground.analysis.update import Update
from lora_playground.config import ModelConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.data.encoding import encode
from lora_playground.errors import JobError, RunError
from lora_playground.jobs import truncation_curve
from lora_playground.models.catalogue import EMBEDDED, module_shapes
from tests.spectrum_runs import finished_run
from tests.waiting import wait_until

ROWS = 2


def small_updates() -> list[Update]:
    made = []
    for number, (name, out, into) in enumerate(module_shapes(EMBEDDED)[:7]):
        rng = np.random.default_rng(number)
        U, V = (np.linalg.qr(rng.standard_normal((side, 3)))[0] for side in (out, into))
        made.append(Update(name, (U * [3.0, 1.0, 0.3]).astype(np.float32), V.T.astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = finished_run(tmp_path_factory.mktemp("home"), "r3", small_updates(), {"name": "lora", "rank": 3})
    return made


def merged_loss(updates: list[Update], keep: int) -> float:
    """Mean loss of learned tokens by transformers' own forward, the dense truncated ΔW added to the weights."""
    from lora_playground.models.loading import load_base

    base = load_base(ModelConfig(), dtype="float32")
    parameters = dict(base.model.named_parameters())
    with torch.no_grad():
        for update in updates:
            U, s, Vt = np.linalg.svd(update.matrix(), full_matrices=False)
            delta = torch.from_numpy((U[:, :keep] * s[:keep]) @ Vt[:keep])
            parameters[f"{update.name}.weight"] += delta.to(parameters[f"{update.name}.weight"])
        rows = get_dataset("pirate", EMBEDDED).validation[:ROWS]
        total = count = 0.0
        for example in encode(base.tokenizer, rows, 256).examples:
            ids = torch.tensor(example.ids.tolist())
            learned = torch.tensor(example.learned.tolist())[1:]
            logits = base.model(input_ids=ids[None]).logits[0, :-1].double()
            losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            total += float(losses[learned].sum())
            count += int(learned.sum())
    return total / count


def test_losses_are_those_of_weights_merged_by_hand(run):
    seen: list[int] = []
    found = truncation_curve.measure(run, [0, 2, 3], 1, ROWS, lambda points: seen.append(len(points["k"])))
    assert found["k"] == [0, 2, 3] and found["done"] and seen == [1, 2, 3]
    for k, loss in zip(found["k"], found["loss"], strict=True):
        assert loss == pytest.approx(merged_loss(small_updates(), k), rel=2e-3)
    assert found["loss"][0] != pytest.approx(found["loss"][2], rel=1e-4), "the update does something"
    assert all(0.0 <= score <= 1.0 for score in found["score"])


@pytest.mark.parametrize("rank, expected", [(1, [0, 1]), (2, [0, 1, 2]), (8, [0, 1, 2, 3, 4, 6, 8])])
def test_ladder_ends_at_the_rank(rank, expected):
    assert truncation_curve.ladder(rank) == expected
    assert truncation_curve.ladder(64)[-1] == 64 and len(truncation_curve.ladder(64)) < 14


def test_a_run_without_update_has_no_curve(tmp_path):
    made = finished_run(tmp_path, "r3", small_updates(), {"name": "lora", "rank": 3})
    assert truncation_curve.read(made) is None
    made.update_path.unlink()
    with pytest.raises(RunError, match="saved update"):
        truncation_curve.start(made)


def test_an_imported_adapter_without_data_says_so(tmp_path):
    made = finished_run(tmp_path, "r3", small_updates(), {"name": "lora", "rank": 3}, dataset="imported")
    assert truncation_curve.main(str(made.folder)) == 1
    assert "without its dataset" in truncation_curve.failure(made) and truncation_curve.read(made) is None


def test_one_curve_at_a_time_and_its_end_is_seen(tmp_path, monkeypatch):
    made = finished_run(tmp_path, "r3", small_updates(), {"name": "lora", "rank": 3})
    go_on = tmp_path / "go-on"
    code = "import os, sys, time\nprint('why', flush=True)\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.02)\n"
    code += "sys.exit(1)"
    monkeypatch.setattr(truncation_curve.processes, "python", lambda *_: [sys.executable, "-c", code, str(go_on)])
    (made.folder / truncation_curve.FILE).write_text(json.dumps({"k": [0]}))
    truncation_curve.start(made)
    assert truncation_curve.running(made)
    assert truncation_curve.read(made) is None, "what was measured before is put away"
    with pytest.raises(JobError, match="Another curve"):
        truncation_curve.start(made)
    go_on.touch()
    wait_until(lambda: not truncation_curve.running(made))
    assert "ended early" in truncation_curve.failure(made)
