"""The torch side of federated runs on a tiny model: what trains, what the base becomes, and a whole job."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_playground.analysis.update import load_updates
from lora_playground.config import ModelConfig, RunConfig
from lora_playground.errors import ConfigError, TrainingError
from lora_playground.federated.aggregation import prepared
from lora_playground.federated.clients import as_run, global_updates, kept_clients
from lora_playground.federated.config import VARIANTS as TAKEN
from lora_playground.federated.config import why_not
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.runs import Run, RunStore
from lora_playground.variants import VARIANTS
from tests.checkpoints import make_checkpoint

PEOPLE = ("Rosgar", "Ulima", "Marvin", "Kelina")
PETS = ("crow", "frog", "lamb", "goat")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model and a home with a dataset of four people."""
    place = tmp_path_factory.mktemp("federated")
    make_checkpoint(place / "base")
    folder = place / "home" / "uploads" / "people"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"label": "People", "metric": "contains"}))
    for part, each in (("train", 4), ("validation", 1), ("test", 1)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"Which pet lives with {name}? {number}"},
                    {"role": "assistant", "content": f"{name} has a {pet}."},
                ],
                "meta": {"answer": pet},
            }
            for name, pet in zip(PEOPLE, PETS)
            for number in range(each)
        ]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def config_of(place: Path, strategy: str, **federated: Any) -> RunConfig:
    section = {"strategy": strategy, "clients": 2, "rounds": 2, "local_steps": 3, "partition": "topic", "score_rows": 2}
    training = {"batch_tokens": 64, "precision": "float32", "learning_rate": 0.01, "seed": 3}
    return RunConfig.parse(
        {
            "model": {"source": str(place / "base")},
            "data": {"dataset": "people", "max_length": 64},
            "variant": {"name": "lora", "rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "down_proj"]},
            "training": training,
            "federated": section | federated,
        }
    )


def make_trainer(place: Path, config: RunConfig) -> Any:
    from lora_playground.data.catalogue import get_dataset
    from lora_playground.federated.local import LocalTrainer
    from lora_playground.federated.preparation import prepare_clients
    from lora_playground.models.loading import load_base

    base = load_base(config.model, device="cpu", dtype="float32")
    data = get_dataset("people", place / "home")
    held = prepare_clients(base.tokenizer, data, config, embedded=False)
    return LocalTrainer(
        base, config, held.examples, validation=held.shared.validation, test=data.test, metric="contains"
    )


def weights(model: Any) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters() if "lora_" not in name}


def play(trainer: Any, config: RunConfig, events: list[dict]) -> Any:
    federated = config.federated
    strategy = prepared(federated.strategy)
    who = parties(federated.ranks or [4] * federated.clients, [len(e) for e in trainer.clients], trainer)
    state = begin(strategy, who, trainer, config.training.seed)
    assert simulate(strategy, who, trainer, state, federated.rounds, 0.0, events.append, lambda: False)
    return state


@pytest.mark.parametrize("name", ["fedit", "flora", "fedsb", "rolora"])
def test_rounds_learn_and_leave_the_base_pristine(place: Path, name: str) -> None:
    """The global loss falls; afterwards W is W to the bit, and W + ΔW gives the loss that was judged."""
    import torch

    from lora_playground.models.decoding import Decoder
    from lora_playground.training.loss import PackedLoss, mean_loss

    config = config_of(place, name, local_steps=6)
    trainer = make_trainer(place, config)
    before = weights(trainer.base.model)
    events: list[dict] = []
    state = play(trainer, config, events)
    rounds = [event for event in events if event["type"] == "round"]
    assert rounds[-1]["loss"] < rounds[0]["loss"] if name != "rolora" else rounds[-1]["loss"] > 0
    assert rounds[-1]["score"] is not None
    batches = trainer._batches
    trainer.close()
    after = weights(trainer.base.model)
    assert before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        for update in global_updates(state):
            module = trainer.base.model.get_submodule(update.name)
            module.weight += torch.from_numpy(update.matrix()).float()
        assert mean_loss(PackedLoss(trainer.base.model, torch.float32), batches) == pytest.approx(
            rounds[-1]["loss"], abs=2e-5
        )
    assert Decoder(trainer.base.model, trainer.base.tokenizer)


def test_only_the_parts_of_the_round_move(place: Path) -> None:
    trainer = make_trainer(place, config_of(place, "fedit"))
    for name, moved in (("ffa", "B"), ("fedsb", "R")):
        strategy = prepared(name)
        who = parties([4, 4], [8, 8], trainer)
        state = begin(strategy, who, trainer, 0)
        start = strategy.local(state.server, 4, 2.0)
        done = trainer.train(0, start, {}, strategy.trained(1), 1, lambda event: None)
        for module, factor in done.factors.items():
            for part in ("B", "A", "R"):
                old, new = getattr(start[module], part), getattr(factor, part)
                if old is not None:
                    assert np.array_equal(old, new) == (part != moved), (name, module, part)
    trainer.close()


def test_one_client_is_plain_training(place: Path) -> None:
    """One client, one round of FedIT against PEFT's LoRA trained by the same loop from the same start."""
    import torch

    from lora_playground.federated.simulation import local_seed
    from lora_playground.training import TrainPlan
    from lora_playground.training.loop import train
    from lora_playground.variants.base import Context
    from lora_playground.variants.peft_variant import tuner_layers

    config = config_of(place, "fedit", clients=1, rounds=1, partition="iid")
    trainer = make_trainer(place, config)
    state = play(trainer, config, [])
    trainer.close()
    other = make_trainer(place, config)
    model = other.variant.attach(other.base.model, config.variant, Context())
    start = prepared("fedit").start(trainer.shapes(), 4, 2.0, config.training.seed)
    with torch.no_grad():
        for module, layer in tuner_layers(model):
            layer.lora_A["default"].weight.copy_(torch.from_numpy(start.factors[module].A))
            layer.lora_B["default"].weight.zero_()
    seed = local_seed(3, 1, 0)
    training = config.training.model_copy(update={"steps": 3, "seed": seed, "schedule": "constant"})
    train(model, TrainPlan(training, other.variant, other.clients[0], pad=other.pad), lambda e: None, lambda: False)
    expected = {update.name: update.matrix() for update in other.variant.updates(model)}
    for update in global_updates(state):
        wanted = expected[update.name]
        assert np.linalg.norm(wanted) > 1e-4
        assert np.linalg.norm(update.matrix() - wanted) <= 2e-6 * np.linalg.norm(wanted)


def test_the_gradient_is_that_of_the_base(place: Path) -> None:
    """Fed-SB's start: ∇W against autograd through the plain model, example by example."""
    import torch

    trainer = make_trainer(place, config_of(place, "fedsb"))
    found = trainer.gradients(0)
    model, name = trainer.base.model, "model.layers.1.mlp.down_proj"
    weight = model.get_submodule(name).weight
    assert not weight.requires_grad and weight.grad is None
    weight.requires_grad_(True)
    total = torch.zeros(())
    learned = 0
    for example in trainer.clients[0]:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0, :-1]
        chosen = torch.from_numpy(example.learned[1:])
        total = total + torch.nn.functional.cross_entropy(logits[chosen], ids[0, 1:][chosen], reduction="sum")
        learned += int(chosen.sum())
    (total / learned).backward()
    expected = weight.grad.numpy()
    assert np.linalg.norm(found[name] - expected) <= 1e-4 * np.linalg.norm(expected)


def test_a_loss_that_is_no_number_leaves_that_client_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_playground.federated import local

    trainer = make_trainer(place, config_of(place, "fedit"))
    plain = local.train

    def fails_for_the_first(model: Any, plan: Any, emit: Any, should_stop: Any) -> Any:
        if plan.train is trainer.clients[0]:
            raise TrainingError("The loss or its gradient is no longer a number at step 2, so training stopped.")
        return plain(model, plan, emit, should_stop)

    monkeypatch.setattr(local, "train", fails_for_the_first)
    events: list[dict] = []
    state = play(trainer, config_of(place, "fedit", rounds=1), events)
    event = next(event for event in events if event["type"] == "round")
    assert list(event["left_out"]) == ["client 1"] and event["weights"] == {"client 2": 1.0}
    assert event["client_loss"] == {"client 2": pytest.approx(event["client_loss"]["client 2"])}
    json.dumps(events, allow_nan=False)
    assert all(np.isfinite(update.B).all() for update in global_updates(state))


def test_unequal_ranks_train_at_their_own_rank(place: Path) -> None:
    config = config_of(place, "flexlora", ranks=[2, 6], rounds=2)
    trainer = make_trainer(place, config)
    events: list[dict] = []
    play(trainer, config, events)
    assert trainer.scaling(2) == 4.0 and trainer.scaling(6) == pytest.approx(8 / 6)
    last = [event for event in events if event["type"] == "round"][-1]
    assert last["rank"]["clients"] == {"client 1": 2.0, "client 2": 6.0}


def new_run(place: Path, strategy: str, **federated: Any) -> Run:
    return RunStore(place / "home").create(config_of(place, strategy, **federated))


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


def test_what_cannot_be_run_is_refused_before_anything_starts(place: Path) -> None:
    from lora_playground.jobs.admission import check

    home = place / "home"
    with pytest.raises(ConfigError, match="needs one rank for all clients"):
        check(config_of(place, "fedit", ranks=[2, 4]), home)
    with pytest.raises(ConfigError, match="exactly 2"):
        check(config_of(place, "flora", ranks=[2, 4, 8]), home)
    with pytest.raises(ConfigError, match="choose one of"):
        check(config_of(place, "fedavg"), home)
    config = config_of(place, "flora")
    quantised = config.model_copy(update={"model": config.model.model_copy(update={"quantisation": "4bit"})})
    with pytest.raises(ConfigError, match="changes the base weight"):
        check(quantised, home)
    for name in VARIANTS:
        given = RunConfig.parse(config.model_dump(mode="json") | {"variant": {"name": name}})
        if name in TAKEN:
            check(given, home)
        else:
            with pytest.raises(ConfigError, match=r"variant\.name.*federated runs take lora, rslora, loraplus"):
                check(given, home)
    for name, reason in (("dora", "magnitude"), ("pissa", "not zero"), ("lorafa", "strategy ffa"), ("ia3", "B·A")):
        assert reason in why_not(name)


@pytest.mark.parametrize("strategy", ["fedit", "ffa", "rolora", "fedsb", "flexlora"])
@pytest.mark.parametrize("variant", TAKEN)
def test_every_variant_that_is_taken_trains(place: Path, variant: str, strategy: str) -> None:
    """ΔW is s·B·A with the variant's own s; clients of ranks 2 and 4 train where the strategy takes them."""
    config = config_of(place, strategy, rounds=2, ranks=[2, 4] if strategy == "flexlora" else None)
    options = config.variant.model_dump() | {"name": variant}
    config = RunConfig.parse(config.model_dump(mode="json") | {"variant": options})
    trainer = make_trainer(place, config)
    assert trainer.scaling(4) == pytest.approx(8 / np.sqrt(4) if variant == "rslora" else 8 / 4)
    start = trainer.judge(begin(prepared(strategy), parties([4, 4], [8, 8], trainer), trainer, 3).server)["loss"]
    events: list[dict] = []
    state = play(trainer, config, events)
    last = [event for event in events if event["type"] == "round"][-1]
    assert last["loss"] < start and last["weights"].keys() == {"client 1", "client 2"}
    assert all(np.linalg.norm(update.matrix()) > 0 for update in global_updates(state))
    trainer.close()


def test_a_job_in_which_nobody_ever_delivers_ends_with_a_sentence(place: Path) -> None:
    from lora_playground.jobs.pipeline import execute

    run = new_run(place, "fedit", drop_out=1.0)
    with pytest.raises(TrainingError, match="No client delivered"):
        execute(run, lambda: False)
    assert "drop-out" in run.error()["message"]
    texts = [event["text"] for event in run.events()[0] if event["type"] == "message"]
    assert sum("no client delivered" in text for text in texts) == 2
