"""The training loop: it learns, repeats itself exactly, resumes exactly, and stops with a clear word when it must."""

import json
import math

import numpy as np
import pytest
import torch
from checkpoints import KINDS, PLAIN_TEMPLATE, make_checkpoint

from lora_playground.config import ModelConfig, TrainingConfig
from lora_playground.data.encoding import encode
from lora_playground.data.packing import as_batch, pack
from lora_playground.errors import TrainingError
from lora_playground.models.loading import load_base
from lora_playground.training import TrainPlan, reports, train
from lora_playground.training import checkpoints as saved
from lora_playground.training.loss import PackedLoss, mean_loss
from lora_playground.variants import get_variant
from lora_playground.variants.base import Context

WORDS = "baker dog cheese river house captain sea wind clip bread name red".split()


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        word = WORDS[int(rng.integers(len(WORDS)))]
        question = "What about the " + " ".join([word] * int(rng.integers(1, 6))) + "?"
        answer = {"role": "assistant", "content": f"Arr, {word}!"}
        made.append({"messages": [{"role": "user", "content": question}, answer]})
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama"), "llama", initializer_range=0.15)


def setup(folder, variant="lora", steps=8, seed=0, options=None, variant_options=None, **plan):
    base = load_base(ModelConfig(source=str(folder)), device="cpu", dtype="float32")
    kind = get_variant(variant)
    config = kind.config(**(variant_options or {"rank": 4} if variant != "full" else {}))
    model = kind.attach(base.model, config, Context(steps=steps, seed=seed))
    training = TrainingConfig(
        **{"steps": steps, "seed": seed, "batch_tokens": 256, "learning_rate": 1e-2, **(options or {})}
    )
    train_set = encode(base.tokenizer, rows(60), 64).examples
    validation = encode(base.tokenizer, rows(12, seed=1), 64).examples
    return model, TrainPlan(training, kind, train_set, validation, pad=base.tokenizer.pad_token_id, threads=1, **plan)


def run(folder, *, stop_at=None, checkpoints=None, **options):
    model, plan = setup(folder, **options)
    events = []
    outcome = train(
        model, plan, events.append, lambda: stop_at is not None and _done(events) >= stop_at, checkpoints=checkpoints
    )
    return outcome, events, model


def _done(events):
    return max((event["steps"][-1] for event in events if event["type"] == "loss"), default=0)


def curve(events):
    return {
        step: loss for event in events if event["type"] == "loss" for step, loss in zip(event["steps"], event["losses"])
    }


def test_it_learns_and_tells(folder):
    outcome, events, _ = run(folder, steps=25)
    assert outcome.steps == 25 and not outcome.stopped and len(outcome.losses) == 25
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]
    assert outcome.validation_end < 0.7 * outcome.validation_start
    assert sorted(curve(events)) == list(range(1, 26))
    plan = events[0]
    assert plan["type"] == "plan" and plan["steps"] == 25 and plan["start_step"] == 0
    assert len(plan["modules"]) == 14 and plan["modules"][0] == ["model.layers.0.self_attn.q_proj", 32, 32]
    assert plan["trainable_parameters"] == sum(4 * (out + into) for _, out, into in plan["modules"])
    assert {event["type"] for event in events} >= {"plan", "loss", "validation", "spectra"}
    assert [event["step"] for event in events if event["type"] == "validation"][:2] == [0, 2]
    json.dumps(events, allow_nan=False)


def test_event_fields_are_those_of_the_contract(folder):
    _, events, _ = run(folder, steps=3, on_probe=lambda step, few: [{"prompt": "hi", "answer": str(step)}])
    fields = {
        "plan": "steps start_step trainable_parameters total_parameters tokens_per_step precision threads device "
        "modules rows truncated recipe",
        "loss": "steps losses learning_rates tokens_per_second eta",
        "validation": "step loss",
        "spectra": "step spectra effective_rank frobenius modules_dense",
        "probe": "step answers",
    }
    for event in events:
        assert set(event) == {"type", *fields[event["type"]].split()}
    assert {event["type"] for event in events} == set(fields)


def test_probes_are_asked_at_fixed_shares_of_the_steps(folder):
    _, events, _ = run(folder, steps=20, on_probe=lambda step, few: [{"prompt": "hi", "answer": str(step)}])
    assert [event["step"] for event in events if event["type"] == "probe"] == [0, 1, 2, 4, 8, 14, 20]


def test_spectra_agree_with_a_dense_svd(folder):
    _, events, model = run(folder, steps=6)
    last = [event for event in events if event["type"] == "spectra"][-1]
    for update in get_variant("lora").updates(model):
        dense = np.linalg.svd(update.matrix(), compute_uv=False)[:4]
        assert np.allclose(last["spectra"][update.name], dense, rtol=1e-3, atol=1e-3 * dense[0])
        assert last["frobenius"][update.name] == pytest.approx(np.linalg.norm(dense), rel=1e-3)


def test_same_seed_same_losses(folder):
    first, second, other = (
        run(folder, seed=seed, variant_options={"rank": 4, "dropout": 0.1})[0].losses for seed in (1, 1, 2)
    )
    assert first == second and first != other


def test_callbacks_leave_the_random_numbers_alone(folder):
    options = {"variant_options": {"rank": 4, "dropout": 0.2}}
    quiet = run(folder, on_spectra=False, **options)[0].losses
    noisy = run(folder, on_probe=lambda step, few: [{"prompt": "", "answer": str(torch.rand(3))}], **options)[0].losses
    assert quiet == noisy


RESUMED = {
    "lora": {"rank": 4},
    "full": {},
    "adalora": {"rank": 4},
    "celora": {"rank": 4, "frozen_rank": 4, "refresh_every": 3, "only_where_it_saves": False},
}


@pytest.mark.parametrize("at", [1, 7])
@pytest.mark.parametrize("variant", RESUMED)
def test_resume_gives_the_losses_of_an_uninterrupted_run(folder, tmp_path, monkeypatch, variant, at):
    monkeypatch.setattr(reports, "FLUSH_SECONDS", 0.0)
    training = {"checkpoint_every": 5, "optimiser": "muon" if variant == "full" else "adamw"}
    options = {"variant": variant, "variant_options": RESUMED[variant], "steps": 14, "options": training}
    whole, _, model = run(folder, **options)
    torch.manual_seed(123)
    stopped, events, _ = run(folder, stop_at=at, checkpoints=tmp_path, **options)
    assert stopped.stopped and stopped.steps == at and events[-1] == {"type": "checkpoint", "step": at}
    resumed, events, again = run(folder, checkpoints=tmp_path, **options)
    assert events[0]["start_step"] == stopped.steps and resumed.steps == 14
    assert stopped.losses + resumed.losses == whole.losses
    assert resumed.validation_start == whole.validation_start and resumed.validation_end == whole.validation_end
    for one, other in zip(model.parameters(), again.parameters()):
        assert torch.equal(one, other)


def test_a_damaged_checkpoint_is_passed_over(folder, tmp_path):
    whole, _, _ = run(folder, steps=10, options={"checkpoint_every": 3}, checkpoints=tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-6", "step-9"]
    (tmp_path / "step-12.tmp").mkdir()
    with open(tmp_path / "step-9" / "optimiser.pt", "r+b") as file:
        file.truncate(100)
    resumed, events, _ = run(folder, steps=10, options={"checkpoint_every": 3}, checkpoints=tmp_path)
    assert events[0]["start_step"] == 6 and resumed.losses == whole.losses[6:]
    assert not (tmp_path / "step-12.tmp").exists()
    _, events, _ = run(folder, steps=3, seed=5, options={"checkpoint_every": 100}, checkpoints=tmp_path)
    assert events[0]["start_step"] == 0  # another seed is another run


@pytest.mark.parametrize("call", range(1, 9))
def test_a_full_disk_at_any_write_keeps_the_last_checkpoint(folder, tmp_path, monkeypatch, call):
    run(folder, steps=4, options={"checkpoint_every": 3}, checkpoints=tmp_path)
    calls = iter(range(1, 100))
    sync = saved.sync

    def failing(path):
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(saved, "sync", failing)
    state = saved.load_newest(tmp_path, _signature(tmp_path))
    later = saved.State(9, 10, 1, state.signature, state.parameters, state.optimiser, state.generators)
    if call <= 7:
        with pytest.raises(TrainingError, match=r"step 9 cannot be written.*Free some space"):
            saved.save(tmp_path, later)
        assert not list(tmp_path.glob("*.tmp"))
    else:
        saved.save(tmp_path, later)
    assert saved.load_newest(tmp_path, state.signature).step in (3, 9)


def _signature(folder):
    return json.loads((folder / "step-3" / "state.json").read_text())["signature"]


def test_accumulation_gives_the_same_gradient_as_one_large_batch(folder):
    """The mean is over all learned tokens of a step, however many micro-batches it is split into."""
    model, plan = setup(folder)
    loss = PackedLoss(model, torch.float32)
    batches = pack(plan.train[:20], 64, 2, plan.pad)
    learned = sum(batch.learned for batch in batches)
    sum(loss.loss_sum(loss.put(batch)) for batch in batches).div(learned).backward()
    whole = pack(plan.train[:20], 64, 2 * len(batches), plan.pad)
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss.loss_sum(loss.put(whole[0])).div(whole[0].learned).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert torch.allclose(p.grad, expected[name], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_loss_equals_the_model_on_each_example_alone(tmp_path, kind):
    """Transformers' own loss, one example at a time, is the witness."""
    base = load_base(ModelConfig(source=str(make_checkpoint(tmp_path, kind))), device="cpu", dtype="float32")
    examples = encode(base.tokenizer, rows(9), 64).examples
    loss = PackedLoss(base.model, torch.float32)
    assert loss.split and not loss.solo
    packed = mean_loss(loss, pack(examples, 96, 2, base.tokenizer.pad_token_id))
    total = learned = 0
    for example in examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.learned)[None], ids, -100)
        count = int((labels[:, 1:] >= 0).sum())
        total += float(base.model(input_ids=ids, labels=labels).loss) * count
        learned += count
    assert packed == pytest.approx(total / learned, rel=1e-5)


@pytest.mark.parametrize("kind", ["gemma3", "mistral"])
def test_sliding_windows_narrower_than_a_row(tmp_path, kind):
    folder = make_checkpoint(tmp_path, kind, sliding_window=16)
    base = load_base(ModelConfig(source=str(folder)), device="cpu", dtype="float32")
    examples = encode(base.tokenizer, rows(6), 64).examples
    loss = PackedLoss(base.model, torch.float32)
    assert not loss.solo and loss.window == 16
    alone = mean_loss(loss, pack(examples, 96, 2, 0, solo=True))
    assert mean_loss(loss, pack(examples, 96, 2, 0)) == pytest.approx(alone, rel=1e-5)


def test_a_model_that_ignores_the_mask_is_not_packed(folder, monkeypatch):
    from lora_playground.training import loss as module

    def everything(segments, dtype):
        return torch.zeros(len(segments), 1, *([segments.shape[1]] * 2)).triu(1) * float("-1e9")

    monkeypatch.setattr(module, "block_mask", everything)
    model, plan = setup(folder)
    assert PackedLoss(model, torch.float32).solo
    outcome = train(model, plan, [].append, lambda: False)
    assert outcome.losses[-1] < outcome.losses[0]


def test_soft_capped_logits_take_the_models_own_forward(folder):
    model, plan = setup(folder)
    inner = model.get_base_model()
    plain = inner.forward

    def capped(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = 0.1 * torch.tanh(out.logits / 0.1)
        return out

    inner.forward = capped
    loss = PackedLoss(model, torch.float32)
    assert not loss.split
    assert train(model, plan, [].append, lambda: False).steps == 8


def test_chunked_head_gives_the_same_loss_and_gradient(folder, monkeypatch):
    from lora_playground.training import loss as module

    values = []
    for elements in (2**25, 512 * 7):
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", elements)
        for variant in ("lora", "full"):
            model, plan = setup(folder, variant=variant)
            loss = PackedLoss(model, torch.float32)
            batch = as_batch([plan.train[:3], plan.train[3:6]], 128, 2, 0)
            value = loss.loss_sum(loss.put(batch))
            value.backward()
            norm = sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)
            values.append((float(value), norm))
    assert values[0] == pytest.approx(values[2], rel=1e-5) and values[1] == pytest.approx(values[3], rel=1e-5)


def test_nan_stops_and_names_the_step(folder, tmp_path):
    model, plan = setup(folder, options={"checkpoint_every": 2})
    steps = []

    def poisoned(_model, step):
        steps.append(step)
        if step == 5:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad)[0, 0] = float("nan")

    object.__setattr__(plan.variant, "after_step", poisoned)
    try:
        events = []
        with pytest.raises(TrainingError, match=r"at step 6.*Lower the learning rate"):
            train(model, plan, events.append, lambda: False, tmp_path)
    finally:
        object.__delattr__(plan.variant, "after_step")
    assert max(curve(events)) == 5
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-2", "step-4"]


def test_stop_before_the_first_step(folder):
    outcome, events, _ = run(folder, stop_at=0)
    assert outcome.stopped and outcome.steps == 0 and math.isnan(outcome.final_loss)
    assert not [event for event in events if event["type"] == "loss"]


def test_nothing_to_learn_or_to_train(folder):
    model, plan = setup(folder)
    plan.train = []
    with pytest.raises(TrainingError, match="no usable row"):
        train(model, plan, print, lambda: False)
    model, plan = setup(folder)
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        train(model, plan, print, lambda: False)


def test_out_of_memory_says_what_to_lower(folder, monkeypatch):
    model, plan = setup(folder)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    monkeypatch.setattr(PackedLoss, "loss_sum", full)
    plan.validation = []
    with pytest.raises(TrainingError, match=r"Tried to allocate 20.*batch_tokens \(now 256\).*gradient_checkpointing"):
        train(model, plan, [].append, lambda: False)


def test_a_broken_callback_is_a_warning_not_a_failure(folder):
    def broken(*_):
        raise ValueError("no such thing")

    outcome, events, _ = run(folder, on_spectra=broken, on_probe=broken)
    warnings = [event["text"] for event in events if event["type"] == "message"]
    assert outcome.steps == 8 and len(warnings) == 2 and all("no such thing" in text for text in warnings)


def test_gradient_checkpointing_gives_the_same_losses(folder):
    plain = run(folder)[0].losses
    again = run(folder, options={"gradient_checkpointing": True})[0].losses
    assert again == pytest.approx(plain, rel=1e-4)


def test_fused_passes_give_the_losses_of_the_library(folder):
    options = {"batch_tokens": 32}  # one short row, so that both pack alike
    expected = run(folder, options=options, fused=False)[0].losses
    assert run(folder, options=options)[0].losses == pytest.approx(expected, rel=1e-4)


def test_own_plain_template_trains(tmp_path):
    folder = make_checkpoint(tmp_path, "qwen3", template=PLAIN_TEMPLATE)
    outcome, _, _ = run(folder)
    assert outcome.losses[-1] < outcome.losses[0]


@pytest.mark.parametrize("kind", ["gpt2", "phi", "gemma3", "phi3"])
def test_other_families_train(tmp_path, kind):
    outcome, events, _ = run(make_checkpoint(tmp_path, kind), steps=15)
    assert outcome.losses[-1] < outcome.losses[0]
    assert not [event for event in events if event["type"] == "message"]


def test_nf4_base_trains(tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = make_checkpoint(tmp_path, "llama", hidden=64)
    base = load_base(ModelConfig(source=str(folder), quantisation="4bit"), device="cpu", dtype="float32")
    kind = get_variant("lora")
    model = kind.attach(base.model, kind.config(rank=4), Context(bits=4))
    outcome = train(model, setup(folder)[1], [].append, lambda: False)
    assert outcome.losses[-1] < outcome.losses[0] and outcome.total_parameters > 64 * 512


def test_seconds_end_the_run(folder):
    outcome, events, _ = run(folder, steps=100_000, options={"seconds": 1.0})
    assert 4 <= outcome.steps < 100_000 and outcome.steps == outcome.planned
    assert len([event for event in events if event["type"] == "plan"]) >= 2


def test_it_ends_early_where_the_validation_loss_stops_falling(folder, tmp_path, monkeypatch):
    slow = {"learning_rate": 1e-9}  # learns nothing, so the third validation after a third of the steps is the last
    outcome, events, _ = run(folder, steps=40, options=slow | {"early_stop": True})
    assert outcome.steps == outcome.planned == 24 and not outcome.stopped
    assert [event["steps"] for event in events if event["type"] == "plan"] == [40, 24]
    (text,) = [event["text"] for event in events if event["type"] == "message"]
    assert "after 24 of 40 steps" in text and "since step 16" in text
    assert run(folder, steps=15, options=slow)[0].steps == 15
    monkeypatch.setattr(reports, "FLUSH_SECONDS", 0.0)
    run(folder, steps=40, stop_at=20, checkpoints=tmp_path, options=slow | {"early_stop": True})
    again = run(folder, steps=40, checkpoints=tmp_path, options=slow | {"early_stop": True})[0]
    assert again.planned == 24, "a resumed run knows what it has waited for"
    assert run(folder, steps=20, options={"early_stop": True})[0].steps == 20, "it is still getting better"
