"""The Federated tab without a browser: its form, what it says of runs' events, a client beside the global one."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from lora_playground.analysis.update import Update, load_updates, save_updates
from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError
from lora_playground.federated.strategies import STRATEGIES
from lora_playground.runs import RunStore
from lora_playground.runs.files import write_json
from lora_playground.ui import federated as tab
from lora_playground.ui.exports import Exports
from lora_playground.ui.shell import SLOTS, Shell


@dataclass
class Queue:
    """Takes configs as the supervisor does, and runs none."""

    store: RunStore
    resumed: list[str] = field(default_factory=list)

    def submit(self, config: RunConfig, owner: str = "", nonce: str | None = None) -> SimpleNamespace:
        return self.job(self.store.create(config).id)

    def resume(self, identity: str, owner: str | None = None) -> None:
        self.resumed.append(identity)

    def job(self, identity: str) -> SimpleNamespace:
        run = self.store.get(identity)
        label = run.config().label
        return SimpleNamespace(id=identity, state=run.state(), label=label, error_message="", ended=True, owner="",
                               resumable=run.state() in ("failed", "cancelled", "interrupted"))  # fmt: skip


@pytest.fixture
def made(tmp_path: Path):
    """(shell, parts): the tab on a home with one dataset."""
    folder = tmp_path / "uploads" / "labels"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text('{"label": "Labels", "metric": "label"}')
    rows = [
        {
            "messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "ab"[i % 2]}],
            "meta": {"label": "ab"[i % 2]},
        }
        for i in range(40)
    ]
    for part in ("train", "validation", "test"):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = RunStore(tmp_path)
    found = {}
    with gr.Blocks():
        shell = Shell(tmp_path, store, Queue(store), gr.State([""] * SLOTS))  # type: ignore[arg-type]
        with gr.Tab("Federated") as place:
            left, right = tab.form(shell), tab.view(Exports(store, tmp_path, prefix="lp-fed"))
            found["parts"] = tab.Parts(**left, **right, compared=gr.State([]), seen=gr.State(""))
        assert place
    return shell, found["parts"]


def given(parts, shell, **values):
    """What Gradio hands over: every input's default, but for those named by their option's last word."""
    found = {shell.ticked: [""] * SLOTS, parts.compared: []}
    found |= {part: part.value for part in parts.inputs()}
    found[parts.dataset] = "labels"
    for fields in (parts.main, parts.more, parts.training):
        for path, part in fields.inputs.items():
            if path.split(".")[-1] in values:
                found[part] = values.pop(path.split(".")[-1])
    if "strategies" in values:
        found[parts.strategies] = values.pop("strategies")
    assert not values
    return found


def test_the_form_makes_a_federated_config(made) -> None:
    shell, parts = made
    config = tab.config_of(parts, given(parts, shell, clients=3, ranks="2, 4, 8", partition="topic"))
    assert config.federated.clients == 3 and config.federated.ranks == [2, 4, 8]
    assert config.data.dataset == "labels" and config.federated.partition == "topic"
    with pytest.raises(ConfigError, match=r"federated\.ranks"):
        tab.config_of(parts, given(parts, shell, ranks="2, many"))


def test_the_split_is_drawn_and_a_bad_one_is_explained(made) -> None:
    shell, parts = made
    _, words = tab.draw_split(shell, parts, given(parts, shell, clients=4, partition="dirichlet"))
    assert "4 clients hold" in words and "of 2 groups" in words
    _, words = tab.draw_split(shell, parts, given(parts, shell, clients=3, partition="topic"))
    assert "at most 2 clients" in words.lower() and 'role="alert"' in words
    _, words = tab.draw_split(shell, parts, given(parts, shell, clients=0))
    assert "Clients: 0 is not possible" in words and 'role="alert"' in words
    _, words = tab.draw_split(shell, parts, given(parts, shell, clients=1, partition="iid"))
    assert "one client only" in words


def test_start_queues_one_run_a_strategy_or_none_at_all(made) -> None:
    shell, parts = made
    asked = given(parts, shell, clients=2, ranks="2, 4", strategies=["flora", "fedit"])
    _, _, problem = tab.start_runs(shell, parts, asked, "me")
    assert "FedIT needs one rank for all clients" in problem and shell.store.list() == []
    _, _, problem = tab.start_runs(shell, parts, given(parts, shell, strategies=[]), "me")
    assert "at least one strategy" in problem
    asked = given(parts, shell, clients=2, ranks="4", strategies=["flora", "fedit", "ffa", "rolora", "fedex"])
    started, ticked, problem = tab.start_runs(shell, parts, asked, "me")
    assert problem == "" and len(started) == 5 and ticked == started[:SLOTS]
    names = {shell.store.get(run).config().federated.strategy for run in started}
    assert names == {"flora", "fedit", "ffa", "rolora", "fedex"}


def play(shell, identity: str, error: float) -> None:
    """Leaves what a finished run leaves."""
    run = shell.store.get(identity)
    run.begin(1)
    spectra = {"m.q_proj": {"global": [1.0], "ideal": [1.0], "clients": {"client 1": [0.5], "client 2": [0.4]}}}
    rank = {"global": 2.0, "ideal": 2.0, "clients": {"client 1": 1.0, "client 2": 1.0}}
    sent = {"up": 10, "down": 10, "up_total": 1_000_000, "down_total": 2_000_000}
    run.append({"type": "round", "round": 0, "step": 0, "loss": 3.0, "score": 0.0})
    run.append({"type": "message", "level": "warning", "text": "Round 1: client 2 was left out: it <b>failed</b>."})
    run.append({"type": "round", "round": 1, "step": 4, "loss": 2.0, "score": 0.5, "error": error, "bytes": sent,
                "rank": rank, "spectra": spectra, "weights": {}, "left_out": {}, "client_loss": {}})  # fmt: skip
    folder = run.folder / "clients"
    folder.mkdir()
    rng = np.random.default_rng(0)
    updates = [Update("m.q_proj", B=rng.standard_normal((6, 2)), A=rng.standard_normal((2, 4)))]
    save_updates(updates, folder / "2.safetensors")
    save_updates(updates, run.update_path)
    write_json(run.result_path, {"state": "done"})


def test_what_is_said_of_finished_runs(made) -> None:
    shell, parts = made
    asked = given(parts, shell, clients=2, strategies=["fedit", "fedex"])
    started, ticked, _ = tab.start_runs(shell, parts, asked, "me")
    for identity, error in zip(started, (0.25, 1e-16)):
        play(shell, identity, error)
    updates = tab.follow(shell, parts, started, "", "", "")
    table = updates[parts.table]
    assert "25%" in table and "exact" in table and "50%" in table and "1.00 MB" in table
    assert "<b>failed" not in table and "&lt;b&gt;failed" in table
    assert "FedEx-LoRA: exact" in updates[parts.words["error"]]
    assert "FedIT by 25%" in updates[parts.words["error"]]
    assert tab.federated_runs(shell, ticked) == started
    assert updates[parts.exports]["visible"] and not updates[parts.resume]["visible"]
    again = tab.follow(shell, parts, started, updates[parts.seen], started[0], "m.q_proj")
    assert again == gr.skip(), "nothing is sent where nothing is new"


def test_whose_turn_it_is_sends_the_table_alone(made, monkeypatch: pytest.MonkeyPatch) -> None:
    shell, parts = made
    started, _, _ = tab.start_runs(shell, parts, given(parts, shell, clients=2, strategies=["fedit"]), "me")
    run = shell.store.get(started[0])
    run.begin(1)
    monkeypatch.setattr(type(run), "state", lambda self: "training")
    first = tab.follow(shell, parts, started, "", "", "")
    assert "(training)" in first[parts.table]
    run.append({"type": "loss", "steps": [1], "losses": [2.0], "learning_rates": [0.1], "client": "client 2"})
    then = tab.follow(shell, parts, started, first[parts.seen], "", "")
    assert "client 2 trains" in then[parts.table] and set(then) == {parts.table, parts.seen}


def test_stopped_runs_can_be_resumed_together(made) -> None:
    shell, parts = made
    started, _, _ = tab.start_runs(shell, parts, given(parts, shell, clients=2, strategies=["fedit", "ffa"]), "me")
    play(shell, started[0], 0.1)
    failed = shell.store.get(started[1])
    failed.begin(1)
    write_json(failed.error_path, {"code": "cancelled", "message": "stopped"})
    shown = tab.follow(shell, parts, started, "", "", "")
    assert shown[parts.resume]["visible"]
    assert tab.resume_runs(shell, started, "me") == "" and shell.supervisor.resumed == [started[1]]


def test_one_client_becomes_a_run_beside_the_global_one(made) -> None:
    shell, parts = made
    started, ticked, _ = tab.start_runs(shell, parts, given(parts, shell, clients=2, strategies=["fedit"]), "me")
    _, words = tab.put_beside(shell, started[0], "", ticked)
    assert "when the run is done" in words
    play(shell, started[0], 0.1)
    slots, words = tab.put_beside(shell, started[0], "client 2", ticked)
    assert slots[0] == started[0] and "Ticked: the global model and client 2" in words
    alone = shell.store.get(slots[1])
    assert (
        alone.state() == "done"
        and alone.config().federated is None
        and (alone.adapter / "adapter_config.json").is_file()
    )
    assert np.allclose(
        load_updates(alone.update_path)[0].matrix(), load_updates(shell.store.get(started[0]).update_path)[0].matrix()
    )
    again, _ = tab.put_beside(shell, started[0], "client 2", ticked)
    assert again == slots
    _, words = tab.put_beside(shell, started[0], "client 1", ticked)
    assert "kept are: client 2" in words


def test_every_strategy_is_described(made) -> None:
    words = tab.describe_strategies(list(STRATEGIES))
    assert words.count("<h3>") == 11 and "needs" not in words
    assert all(f"$$\n{strategy.card.equation}\n$$" in words for strategy in STRATEGIES.values())
    assert "Tick at least one" in tab.describe_strategies([])


def test_after_a_reload_all_strategies_of_one_start_are_shown(made) -> None:
    """Five were started and four can be ticked; a run of another time or with other options does not join them."""
    shell, parts = made
    names = ["flora", "fedit", "ffa", "rolora", "fedex"]
    other, _, _ = tab.start_runs(shell, parts, given(parts, shell, clients=3, strategies=["fedit"]), "me")
    started, ticked, _ = tab.start_runs(shell, parts, given(parts, shell, clients=2, strategies=names), "me")
    shown = tab.in_view(shell, [], ticked)
    assert shown[0] == started[0] and sorted(shown) == sorted(started)
    assert tab.in_view(shell, started, ticked) == started
    assert tab.in_view(shell, started, [""] * SLOTS) == started
    shown = tab.in_view(shell, started, [other[0], *ticked[1:]])
    assert shown[:2] == [other[0], started[1]] and sorted(shown) == sorted([*other, *started])
    earlier = shell.store.get(started[4])
    moved = earlier.folder.rename(earlier.folder.parent / f"20200101-000000{earlier.id[15:]}")
    assert sorted(tab.in_view(shell, [], ticked)) == sorted(started[:4]) and moved.is_dir()
