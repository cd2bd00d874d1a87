"""The torch side of federated runs on a tiny model: what trains and what the base becomes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_clients import config_of, make_trainer

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, TrainingError
from lora_playground.federated.clients import global_updates
from lora_playground.federated.config import VARIANTS as TAKEN
from lora_playground.federated.config import why_not
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies import get_strategy
from lora_playground.variants import VARIANTS


def weights(model: Any) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters() if "lora_" not in name}


def play(trainer: Any, config: RunConfig, events: list[dict]) -> Any:
    federated = config.federated
    strategy = get_strategy(federated.strategy)
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
        strategy = get_strategy(name)
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

    from lora_playground.federated.rounds import local_seed
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
    start = get_strategy("fedit").start(trainer.shapes(), 4, 2.0, config.training.seed)
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
    for name, reason in (
        ("dora", "magnitude"),
        ("pissa", "not zero"),
        ("lorafa", "strategy ffa"),
        ("ia3", "B·A"),
        ("polar", "third factor"),
        ("osf", "not zero"),
    ):
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
    start = trainer.judge(begin(get_strategy(strategy), parties([4, 4], [8, 8], trainer), trainer, 3).server)["loss"]
    events: list[dict] = []
    state = play(trainer, config, events)
    last = [event for event in events if event["type"] == "round"][-1]
    assert last["loss"] < start and last["weights"].keys() == {"client 1", "client 2"}
    assert all(np.linalg.norm(update.matrix()) > 0 for update in global_updates(state))
    trainer.close()


@pytest.mark.parametrize("name", ["fedit", "flora", "florist", "fedex", "fedsb"])
def test_gpt2_is_judged_as_its_saved_adapter(place: Path, tmp_path: Path, name: str) -> None:
    """GPT-2 stores W as (in, out), and its attn.c_proj is square: the last round's loss is that of the saved adapter,
    loaded by stock PEFT on the base as it came; the gradient that Fed-SB starts from is that of autograd."""
    import torch
    from peft import PeftModel

    from lora_playground.federated.clients import write_adapter
    from lora_playground.models.loading import load_base
    from lora_playground.training.loss import PackedLoss, mean_loss
    from tests.checkpoints import make_checkpoint

    folder = make_checkpoint(tmp_path / "gpt2", "gpt2")
    options = config_of(place, name).model_dump(mode="json") | {"model": {"source": str(folder)}}
    options["variant"] |= {"target_modules": ["attn.c_proj", "mlp.c_fc"]}
    config = RunConfig.parse(options)
    trainer = make_trainer(place, config)
    module = "transformer.h.0.attn.c_proj"
    assert trainer.shapes()[module] == (32, 32)
    events: list[dict] = []
    state = play(trainer, config, events)
    gradient = trainer.gradients(0)[module]
    batches = trainer._batches
    trainer.close()
    write_adapter(global_updates(state), tmp_path / "adapter", str(folder))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"]
    base = load_base(config.model, device="cpu", dtype="float32").model
    loss = PackedLoss(base, torch.float32)
    weight = base.get_submodule(module).weight.requires_grad_(True)
    packed = trainer._packed(trainer.clients[0])
    sum(loss.loss_sum(loss.put(batch)) for batch in packed).backward()
    expected = weight.grad.T.numpy() / sum(batch.learned for batch in packed)
    assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert mean_loss(PackedLoss(adapted, torch.float32), batches) == pytest.approx(events[-1]["loss"], abs=2e-5)


def test_what_it_is_compared_with_is_the_base_and_turns_of_tools_are_not_asked(place: Path) -> None:
    """Fed-SB's start is not the base, whose loss FedIT has at its start; a template without tools is asked none."""
    before = {}
    for name in ("fedit", "fedsb"):
        config = config_of(place, name)
        trainer = make_trainer(place, config)
        state = begin(get_strategy(name), parties([4, 4], [8, 8], trainer), trainer, 0)
        before[name] = trainer.judge(state.server)["loss"]
        assert trainer.base_loss() == pytest.approx(before["fedit"], abs=2e-5)
        call = {"id": "1", "type": "function", "function": {"name": "pets", "arguments": {"of": "Otto"}}}
        turns = [{"role": "user", "content": "Which pet?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        turns += [{"role": "tool", "content": "a dog"}, {"role": "assistant", "content": "a dog"}]
        trainer.test = [{"messages": turns, "meta": {"answer": "dog"}}, *trainer.test]
        trainer.metric = "contains"
        known = trainer._score(trainer.base.model)
        trainer.test = trainer.test[1:]
        assert known == trainer._score(trainer.base.model)
        trainer.close()
    assert abs(before["fedsb"] - before["fedit"]) > 1e-4


@pytest.mark.parametrize("kind", ["lfm2", "mamba"])
def test_models_that_cannot_keep_packed_examples_apart_are_judged_one_example_a_row(
    place: Path, tmp_path: Path, kind: str
) -> None:
    import torch

    from tests.checkpoints import make_checkpoint

    own = {"lfm2": {"layer_types": ["conv", "full_attention"]}, "mamba": {"state_size": 8, "time_step_rank": 4}}
    folder = make_checkpoint(tmp_path / kind, kind, **own[kind])
    options = config_of(place, "fedit").model_dump(mode="json") | {"model": {"source": str(folder)}}
    options["variant"]["target_modules"] = "all-linear"
    trainer = make_trainer(place, RunConfig.parse(options))
    total = learned = 0.0
    for example in trainer.validation:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.learned)[None], ids, -100)
        count = int((labels[:, 1:] >= 0).sum())
        with torch.no_grad():
            total += float(trainer.base.model(input_ids=ids, labels=labels).loss) * count
        learned += count
    assert trainer.base_loss() == pytest.approx(total / learned, abs=2e-5)
    assert all(np.isfinite(gradient).all() for gradient in trainer.gradients(0).values())
    trainer.close()
