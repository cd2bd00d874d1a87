"""The simulation's loop on a linear model: learning, drop-out, damaged clients, stopping and going on."""

import json
from pathlib import Path

import numpy as np
import pytest
from linear_clients import SHAPES, LinearTrainer

from lora_playground.errors import ConfigError, TrainingError
from lora_playground.federated import rounds
from lora_playground.federated.checkpoint import load_state, save_state
from lora_playground.federated.rounds import State, draw_present
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies import STRATEGIES, get_strategy

EXAMPLES = [40, 10, 25, 25]


def run(name: str, rounds: int, ranks=(4, 4, 4, 4), examples=EXAMPLES, drop_out=0.0, seed=0, **trouble):
    trainer = LinearTrainer(len(ranks), seed=seed, **trouble)
    strategy = get_strategy(name)
    who = parties(list(ranks), list(examples), trainer)
    state = begin(strategy, who, trainer, seed)
    events: list[dict] = []
    assert simulate(strategy, who, trainer, state, rounds, drop_out, events.append, lambda: False)
    return state, events, trainer


def same(one: State, other: State) -> None:
    for module in SHAPES:
        (B, A), (C, D) = one.server.update(module), other.server.update(module)
        assert np.array_equal(B @ A, C @ D)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_the_global_model_learns_what_clients_share(name: str) -> None:
    state, events, trainer = run(name, 6, ranks=(8, 8, 8, 8) if name == "fedsb" else (4, 4, 4, 4))
    start = float(np.mean([np.mean(target**2) for target in trainer.common.values()]))
    rounds = [event for event in events if event["type"] == "round"]
    assert [event["round"] for event in rounds] == [1, 2, 3, 4, 5, 6]
    limit = {"ffa": 0.85, "fedsb": 0.85, "fedsvd": 0.85}.get(name, 0.6)  # those that cannot move A are bounded by it
    assert rounds[-1]["loss"] < limit * start
    assert state.server.round == 6
    assert json.loads(json.dumps(events, allow_nan=False)) == events
    for event in rounds:
        assert event["bytes"]["up_total"] == sum(e["bytes"]["up"] for e in rounds if e["round"] <= event["round"])
        for spectra in event["spectra"].values():
            assert set(spectra["clients"]) == {"client 1", "client 2", "client 3", "client 4"}
            assert spectra["global"] == sorted(spectra["global"], reverse=True)


def test_rank_of_the_ideal_grows_beyond_a_clients_own() -> None:
    _, events, _ = run("flora", 1, ranks=(2, 2, 2, 2))
    event = next(e for e in events if e["type"] == "round")
    assert event["rank"]["clients"]["client 1"] == 2
    assert 2 < event["rank"]["ideal"] <= 8
    assert event["rank"]["global"] == event["rank"]["ideal"]


def test_loss_events_count_all_local_steps_once() -> None:
    state, events, _ = run("fedit", 2)
    steps = [step for event in events if event["type"] == "loss" for step in event["steps"]]
    assert steps == list(range(1, 2 * 4 * 12 + 1))
    assert state.step == 96 and state.tokens == 9_600


def test_same_seed_same_factors_and_another_seed_others() -> None:
    one, other, third = (run("fedex", 2, drop_out=0.4, seed=s)[0] for s in (1, 1, 2))
    same(one, other)
    with pytest.raises(AssertionError):
        same(one, third)


def test_drop_out_leaves_clients_out_and_they_come_back() -> None:
    state, events, trainer = run("flora", 8, drop_out=0.5, seed=4)
    rounds = [event for event in events if event["type"] == "round"]
    missing = [set(event["left_out"]) for event in rounds]
    assert any(missing) and any(len(gone) < 4 for gone in missing)
    trained = {(round_, client) for round_, client, _ in trainer.calls}
    for event in rounds:
        assert all("dropped out" in why for why in event["left_out"].values())
        present = {name for name in ("client 1", "client 2", "client 3", "client 4") if name not in event["left_out"]}
        assert {f"client {k + 1}" for r, k in trained if r == event["round"]} == present
    texts = [event["text"] for event in events if event["type"] == "message"]
    assert len(texts) == sum(len(gone) if len(gone) < 4 else 1 for gone in missing)
    # Every change of the base reaches every client once: those that were away get what they missed.
    assert all(since <= state.server.round for since in state.since.values())


def test_catching_up_costs_the_bytes_that_were_missed() -> None:
    """FLoRA, rank 1: the stack of a round of c clients is c·r(m+n) floats; the sum over rounds is known exactly."""
    state, events, _ = run("flora", 3, ranks=(1, 1, 1, 1), drop_out=0.5, seed=4)
    rounds = [event for event in events if event["type"] == "round"]
    assert any(event["left_out"] for event in rounds[:2])
    unit = 4 * sum(o + i for o, i in SHAPES.values())
    names = [f"client {k}" for k in range(1, 5)]
    delivered = {0: 0} | {event["round"]: len(event["weights"]) for event in rounds}
    since = dict.fromkeys(names, 0)
    down = 0
    for event in rounds:
        for name in event["weights"]:
            down += unit * sum(delivered[t] for t in range(since[name] + 1, event["round"]))
            since[name] = event["round"] - 1
    assert state.down == down
    assert state.up == unit * sum(delivered.values())


@pytest.mark.parametrize("name", ["flora", "fedex", "florist"])
def test_the_servers_state_is_bounded_and_nothing_is_lost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 4 is away in rounds 3 to 11. Against a server that keeps every round's change of the base by itself."""
    away = lambda who, drop_out, seed, round_: [n for n in who if n != "client 4" or not 2 < round_ < 12]  # noqa: E731
    monkeypatch.setattr(rounds, "draw_present", away)
    state, events, _ = run(name, 12)
    assert events[-1]["left_out"] == {}
    for module, (out, inputs) in SHAPES.items():
        ranks = [change[module][1].shape[0] for _, change in state.server.merged]
        assert len(ranks) <= 3 and max(ranks[:-1]) <= min(out, inputs)
    monkeypatch.setattr(rounds, "fold", lambda strategy, state: None)
    plain, _, _ = run(name, 12)
    assert len(plain.server.merged) == 12
    for module in SHAPES:
        (B, A), (C, D) = state.server.update(module), plain.server.update(module)
        assert np.linalg.norm(B @ A - C @ D) <= 1e-6 * np.linalg.norm(C @ D)
    assert state.down < plain.down, "the client that comes back gets one matrix's worth, not ten rounds'"


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_all_clients_dropped_in_every_round_ends_cleanly(name: str) -> None:
    state, events, trainer = run(name, 3, drop_out=1.0)
    assert not trainer.calls and state.server.round == 3 and state.up == state.down == 0
    texts = [event["text"] for event in events if event["type"] == "message"]
    assert len(texts) == 3 and all("no client delivered" in text for text in texts)
    assert all(event["error"] is None for event in events if event["type"] == "round")


@pytest.mark.parametrize(("trouble", "says"), [("spoil", "not finite"), ("cut", "of shape")])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_client_that_returns_nan_or_wrong_shapes_is_left_out_and_reported(name: str, trouble: str, says: str) -> None:
    state, events, _ = run(name, 3, **{trouble: {1: {2}}})
    _, second, third = [event for event in events if event["type"] == "round"]
    assert list(second["left_out"]) == ["client 2"] and says in second["left_out"]["client 2"]
    assert third["left_out"] == {} and "client 2" in third["weights"], "it takes part again"
    assert sum(second["weights"].values()) == pytest.approx(1.0, abs=1e-3)
    assert any("Round 2: client 2 was left out" in e["text"] for e in events if e["type"] == "message")
    for module in SHAPES:
        assert all(np.isfinite(part).all() for part in state.server.update(module))


def test_a_client_without_data_never_trains() -> None:
    _, events, trainer = run("fedit", 2, examples=[40, 0, 25, 25])
    assert {client for _, client, _ in trainer.calls} == {0, 2, 3}
    assert all("client 2" not in event["weights"] for event in events if event["type"] == "round")
    with pytest.raises(TrainingError, match="No client has a single training row"):
        run("fedit", 1, examples=[0, 0, 0, 0])


def test_unfit_ranks_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match="needs one rank"):
        run("fedit", 1, ranks=(2, 4, 8, 8))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_stopping_and_going_on_gives_the_same_as_one_go(name: str, tmp_path: Path) -> None:
    """Stopped within round 3, kept after round 2, read again, played to the end: bit for bit the same, bytes too."""
    whole, whole_events, _ = run(name, 4, drop_out=0.3, seed=2)
    trainer = LinearTrainer(4, seed=2)
    strategy = get_strategy(name)
    who = parties([4, 4, 4, 4], EXAMPLES, trainer)
    state = begin(strategy, who, trainer, 2)
    events: list[dict] = []

    def stop() -> bool:
        return any(round_ == 3 for round_, _, _ in trainer.calls)

    def keep(now: State) -> None:
        save_state(now, tmp_path)

    assert not simulate(strategy, who, trainer, state, 4, 0.3, events.append, stop, keep)
    kept = load_state(tmp_path)
    assert kept is not None and kept.server.round == 2 and kept.since == state.since
    assert list(tmp_path.iterdir()) == [tmp_path / f"step-{kept.step}"]
    again = LinearTrainer(4, seed=2)
    assert simulate(strategy, who, again, kept, 4, 0.3, events.append, lambda: False)
    same(whole, kept)
    assert (whole.up, whole.down, whole.step) == (kept.up, kept.down, kept.step)
    rounds = [[e for e in some if e["type"] == "round"] for some in (whole_events, events)]
    assert [e["loss"] for e in rounds[0]] == [e["loss"] for e in rounds[1]]


def test_a_damaged_checkpoint_counts_as_none(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    state, _, _ = run("fedit", 1)
    path = save_state(state, tmp_path)
    (path / "state.safetensors").write_bytes(b"no")
    assert load_state(tmp_path) is None


def test_who_is_present_depends_on_seed_and_round_alone() -> None:
    who = parties([4] * 50, [1] * 50, LinearTrainer(1))
    draws = [draw_present(who, 0.3, 5, round_) for round_ in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    share = np.mean([len(draw_present(who, 0.3, 5, t)) / 50 for t in range(200)])
    assert share == pytest.approx(0.7, abs=0.02)
