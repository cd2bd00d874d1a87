"""Whole federated jobs on a tiny model: what they leave, export, stop and resume, and bad input from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from language_clients import config_of, new_run

from lora_playground.analysis.update import load_updates
from lora_playground.cli import main
from lora_playground.config import ModelConfig
from lora_playground.errors import TrainingError
from lora_playground.federated.clients import as_run, kept_clients
from lora_playground.runs import Run, RunStore


def test_a_job_leaves_what_any_run_leaves_and_stock_peft_loads_it(place: Path) -> None:
    """FedEx on unevenly trained clients: the adapter on the pristine base gives the logits of base + update."""
    import torch
    from peft import PeftModel

    from lora_playground.jobs.pipeline import execute
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.loading import load_base

    run = new_run(place, "fedex")
    result = execute(run, lambda: False)
    assert run.state() == "done" and result == run.result()
    assert result["federated"]["rounds"] == 2 and result["federated"]["error"] < 1e-6
    assert result["federated"]["bytes"]["up"] > 0 and result["score"]["n"] == 4
    assert result["validation_loss"]["base"] > result["validation_loss"]["adapted"]
    events, _ = run.events()
    kinds = {event["type"] for event in events}
    assert {"partition", "plan", "loss", "round", "checkpoint", "phase", "validation"} <= kinds
    assert [event["round"] for event in events if event["type"] == "round"] == [0, 1, 2]
    steps = [step for event in events if event["type"] == "loss" for step in event["steps"]]
    assert steps == list(range(1, 13)) == list(range(1, result["steps"] + 1))
    base = load_base(ModelConfig(source=str(place / "base")), device="cpu", dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    ids = list(range(20, 40))
    expected = decoder.logits(ids, RowUpdate(decoder.adapter(load_updates(run.update_path))))
    plain = decoder.logits(ids)
    model = PeftModel.from_pretrained(base.model, str(run.adapter))
    with torch.no_grad():
        got = model(input_ids=torch.tensor([ids])).logits[0]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (got - plain).abs().max() > 1e-3 * expected.abs().max()
    assert kept_clients(run) == ["client 1", "client 2"]
    store = RunStore(place / "home")
    alone = as_run(store, run, "client 2")
    assert as_run(store, run, "client 2").id == alone.id and alone.state() == "done"
    assert "client 2 alone" in alone.config().label
    assert load_updates(alone.update_path)[0].B.shape[1] <= 8


def test_a_stopped_job_goes_on_from_its_last_round(place: Path) -> None:
    from lora_playground.jobs.failures import Stopped
    from lora_playground.jobs.pipeline import execute

    whole = new_run(place, "flora", rounds=3)
    execute(whole, lambda: False)
    run = new_run(place, "flora", rounds=3)
    seen: list[dict] = []
    with pytest.raises(Stopped, match="round 3 of 3"):
        execute(run, lambda: any(e["type"] == "round" and e["round"] == 2 for e in seen), seen.append)
    assert run.state() == "cancelled" and len(list(run.checkpoints.iterdir())) == 1
    execute(run, lambda: False)
    assert run.state() == "done"
    for one, other in zip(load_updates(whole.update_path), load_updates(run.update_path)):
        assert np.linalg.norm(one.matrix() - other.matrix()) <= 1e-6 * np.linalg.norm(one.matrix())
    rounds = [event["round"] for event in run.history() if event["type"] == "round"]
    assert rounds == [0, 1, 2, 3]


def test_every_export_is_read_by_stock_tools(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FLoRA, whose update is W's change and fresh factors together, by the command line in all three formats."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from lora_playground.jobs.pipeline import execute

    run = new_run(place, "flora")
    execute(run, lambda: False)
    base = AutoModelForCausalLM.from_pretrained(str(place / "base"), dtype=torch.float32)
    ids = torch.tensor([list(range(20, 40))])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        wanted = AutoModelForCausalLM.from_pretrained(str(place / "base"), dtype=torch.float32)
        for update in load_updates(run.update_path):
            wanted.get_submodule(update.name).weight += torch.from_numpy(update.matrix()).float()
        wanted = wanted(input_ids=ids).logits
    assert (wanted - plain).abs().max() > 1e-3
    for name, tolerance in (("peft", 1e-4), ("lora", 1e-4), ("merged", 2e-2)):  # merged is stored in 16 bit
        words = ["export", "--json", "--home", str(place / "home"), run.id, "--format", name]
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        assert json.loads(capsys.readouterr().out)["format"] == name
        if name == "merged":
            model = AutoModelForCausalLM.from_pretrained(str(tmp_path / name), dtype=torch.float32)
        else:
            fresh = AutoModelForCausalLM.from_pretrained(str(place / "base"), dtype=torch.float32)
            model = PeftModel.from_pretrained(fresh, str(tmp_path / name))
        with torch.no_grad():
            got = model(input_ids=ids).logits
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max(), name


def test_a_job_in_which_nobody_ever_delivers_ends_with_a_sentence(place: Path) -> None:
    from lora_playground.jobs.pipeline import execute

    run = new_run(place, "fedit", drop_out=1.0)
    with pytest.raises(TrainingError, match="No client delivered"):
        execute(run, lambda: False)
    assert "drop-out" in run.error()["message"]
    texts = [event["text"] for event in run.events()[0] if event["type"] == "message"]
    assert sum("no client delivered" in text for text in texts) == 2


def said(run: Run) -> list[str]:
    return [event["text"] for event in run.history() if event["type"] == "message"]


def test_a_client_without_data_after_the_split_is_named_and_the_run_goes_on(place: Path) -> None:
    from lora_playground.jobs.pipeline import execute

    run = new_run(place, "flora", clients=17, rounds=1, local_steps=1, partition="iid")  # there are 16 rows
    execute(run, lambda: False)
    assert run.state() == "done"
    assert any("No rows fell to client 17" in text for text in said(run))
    (event,) = [event for event in run.history() if event["type"] == "round" and event["round"] == 1]
    assert len(event["weights"]) == 16 and "client 17" not in event["weights"]
    assert "client 17" not in kept_clients(run)


def test_one_client_is_a_run_with_a_remark(place: Path) -> None:
    from lora_playground.jobs.pipeline import execute

    run = new_run(place, "fedit", clients=1, rounds=1, partition="iid")
    execute(run, lambda: False)
    assert run.state() == "done" and any("There is one client only" in text for text in said(run))
    assert run.result()["federated"]["error"] < 1e-6


def test_passes_over_own_rows_instead_of_steps(place: Path) -> None:
    """A client with three times the rows of another trains three times as long."""
    from lora_playground.federated.preparation import prepare_clients
    from lora_playground.jobs.pipeline import execute
    from lora_playground.models.loading import load_base

    run = new_run(place, "flexlora", clients=3, rounds=2, local_epochs=4.0, local_steps=1)
    execute(run, lambda: False)
    config = run.config()
    base = load_base(config.model, device="cpu", dtype="float32")
    from lora_playground.data.catalogue import get_dataset

    held = prepare_clients(base.tokenizer, get_dataset("people", place / "home"), config, embedded=False)
    tokens = [sum(len(example.ids) for example in mine) for mine in held.examples]
    assert max(tokens) > 1.5 * min(tokens), "by topic, one client has two of the four people"
    expected = [max(1, round(4.0 * mine / config.training.batch_tokens)) for mine in tokens]
    taken = dict.fromkeys(("client 1", "client 2", "client 3"), 0)
    for event in run.history():
        if event["type"] == "loss" and event["round"] == 1:
            taken[event["client"]] += len(event["steps"])
    assert list(taken.values()) == expected
    assert run.result()["steps"] == 2 * sum(expected)


def test_drop_out_is_reported_and_the_run_ends(place: Path) -> None:
    from lora_playground.jobs.pipeline import execute

    run = new_run(place, "fedit", clients=4, rounds=4, local_steps=1, drop_out=0.5)
    execute(run, lambda: False)
    rounds = [event for event in run.history() if event["type"] == "round" and event["round"]]
    missing = [len(event["left_out"]) for event in rounds]
    assert run.state() == "done" and len(rounds) == 4 and 0 < sum(missing) < 16
    told = [text for text in said(run) if "dropped out" in text or "no client delivered" in text]
    assert len(told) == sum(1 if gone == 4 else gone for gone in missing)


@pytest.mark.parametrize(
    ("federated", "says"),
    [
        ({"clients": 0}, "federated.clients: 0 is not allowed"),
        ({"clients": -3}, "federated.clients"),
        ({"ranks": [2, 4]}, "FedIT needs one rank for all clients"),
        ({"ranks": [2, 4, 8], "strategy": "flora"}, "exactly 2"),
        ({"ranks": [0], "strategy": "flora"}, "each rank must be"),
        ({"ranks": [400], "strategy": "flora"}, "rank"),
        ({"strategy": "fedavg"}, "choose one of"),
        ({"drop_out": 1.5}, "federated.drop_out"),
        ({"local_epochs": 0}, "federated.local_epochs"),
        ({"clients": 5}, "at most 4 clients"),
        ({"partition": "dirichlet", "concentration": 0}, "federated.concentration"),
        ({"group": "colour"}, "'colour'"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], federated: dict, says: str
) -> None:
    """By the command line, before a run is made."""
    data = config_of(place, "fedit").model_dump(mode="json")
    data["federated"] |= federated
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    before = {run.id for run in RunStore(place / "home").list()}
    assert main(["train", "--json", "--home", str(place / "home"), "--config", str(path)]) != 0
    printed = capsys.readouterr()
    assert says in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert {run.id for run in RunStore(place / "home").list()} == before
