"""The main path by programs alone, against a real server: by Gradio's client, and by a real MCP client over HTTP."""

import asyncio
import contextlib
import io
import json
import zipfile

import httpx
import pytest
from checkpoints import make_checkpoint
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from lora_playground.cli import main
from lora_playground.errors import PlaygroundError
from lora_playground.machine import processes
from lora_playground.service import run_options
from lora_playground.ui.serve import Server
from tests.waiting import PATIENCE, wait_until

TOKEN = "a token for the tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SHORT = {"rank": 4, "batch_tokens": 256, "seed": 1}
ROWS = "".join(json.dumps({"prompt": f"What is {n}?", "completion": f"It is {n}."}) + "\n" for n in range(40))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(server, its address, folder of a tiny Llama checkpoint)."""
    folder = tmp_path_factory.mktemp("programs")
    make_checkpoint(folder / "model", "llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_PLAYGROUND_TOKEN", TOKEN)
        server = Server(folder / "home", slots=1)
    _, url, _ = server.launch("127.0.0.1", None, mcp=True, quiet=True)
    yield server, url, str(folder / "model")
    server.close()


@pytest.fixture(scope="module")
def client(place):
    return Client(place[1], headers=HEADERS, verbose=False)


@pytest.fixture
def at_hand(monkeypatch):
    """Commands that a process of its own carries out are carried out here: starting one takes most of their time.
    `test_the_main_path_by_gradios_client_alone` starts one."""

    def call(arguments: list[str]) -> tuple[int, str, str]:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
            status = main(arguments)
        return status, out.getvalue(), errors.getvalue()

    async def run(command: list[str], seconds: float) -> tuple[int, str, str]:
        assert command[:3] == processes.python("lora_playground")
        return await asyncio.to_thread(call, command[3:])

    monkeypatch.setattr(processes, "run", run)


def ask(client: Client, name: str, /, *given, **named):
    return client.predict(*given, api_name=f"/{name}", **named)


def refused(client: Client, name: str, /, *given, **named) -> str:
    with pytest.raises(AppError) as failure:
        ask(client, name, *given, **named)
    return str(failure.value)


def ended(client: Client, run: str) -> dict:
    """The status of a run at its end."""
    for _ in range(int(PATIENCE / 40) + 1):
        status = ask(client, "status", run, wait=40, until="end")
        if status["ended"]:
            return status
    raise AssertionError(f"{run} has not ended: {status}")


@pytest.fixture(scope="module")
def short(client, place):
    """Options of a run on few rows that takes a second."""
    return SHORT | {"model": place[2], "dataset": ask(client, "upload_dataset", text=ROWS)["dataset"]}


@pytest.fixture(scope="module")
def trained(client, short):
    """A finished run's id."""
    run = ask(client, "train", steps=6, title="by a program", **short)["run"]
    assert ended(client, run)["state"] == "done"
    return run


def test_a_program_finds_its_way_and_brings_its_own_data(client, place, tmp_path):
    assert ask(client, "list_models")[0]["source"] == "embedded"
    shapes = ask(client, "get_model", place[2])["modules"]
    assert len(shapes) > 4 and all(len(shape) == 3 for shape in shapes)
    assert {"lora", "dora"} <= {one["name"] for one in ask(client, "list_variants")}
    assert {one["name"] for one in ask(client, "get_variant", "lora")["options"]} >= {"rank", "alpha"}
    assert "pirate" in {one["name"] for one in ask(client, "list_datasets")}
    assert len(ask(client, "get_dataset", "pirate", 2)["rows"]["test"]) == 2
    (tmp_path / "mine.jsonl").write_text(ROWS)
    by_file = ask(client, "upload_dataset", file=handle_file(tmp_path / "mine.jsonl"))
    by_text = ask(client, "upload_dataset", text=ROWS)
    assert by_file["dataset"] == by_text["dataset"] and by_file["train"] + by_file["test"] < 40
    cost = ask(client, "estimate", model=place[2], dataset=by_file["dataset"], rank=4)
    assert cost["trainable"] > 0 and cost["least"] <= cost["total"]


def test_the_main_path_by_gradios_client_alone(client, place, trained, tmp_path):
    status = ask(client, "status", trained)
    kinds = [event["type"] for event in status["events"]]
    assert "plan" in kinds and "loss" in kinds and status["step"] == status["steps"] == 6
    assert ask(client, "status", trained, since=status["version"])["events"] == []
    assert {event["type"] for event in ask(client, "status", trained, types=["loss"])["events"]} == {"loss"}
    record = ask(client, "get_run", trained)
    assert record["config"]["variant"]["rank"] == 4 and record["result"]["score"]["n"] > 0
    assert ask(client, "list_runs")[0]["run"] == trained
    scored = ask(client, "evaluate", trained, rows=4, wait=50)
    while scored["state"] == "running":
        scored = ask(client, "evaluate", trained, rows=4, wait=50)
    assert scored["rows"] == 4 and scored["low"] <= scored["adapted"] <= scored["high"]

    modules = ask(client, "spectra", trained)["modules"]
    assert modules and all(len(one["singular_values"]) <= 4 for one in modules)
    assert Image.open(ask(client, "spectrum_picture", trained)).size == (900, 520)

    answers = list(client.submit("Hello", runs=[trained], max_new_tokens=8, strength=0.0, api_name="/chat"))
    assert answers[-1]["done"] and answers[-1]["base"] == answers[-1]["adapted"][trained] != ""
    assert all(answers[-1]["base"].startswith(one["base"]) for one in answers)

    part = ask(client, "cut", trained, k=1)["run"]
    assert all(len(one["singular_values"]) == 1 for one in ask(client, "spectra", part)["modules"])
    mixture = ask(client, "merge", [trained, part], weights=[1.0, -1.0])
    assert mixture["mixture"]["norms"][1] < mixture["mixture"]["norms"][0] and mixture["state"] == "done"
    packed = ask(client, "export", trained, "peft")
    assert any(name.endswith("adapter_model.safetensors") for name in zipfile.ZipFile(packed).namelist())
    brought = ask(client, "import_adapter", file=handle_file(packed), base=place[2], title="back again")
    assert brought["label"] == "back again"
    theirs = ask(client, "spectra", brought["run"])["modules"]
    by_name = {one["name"]: one["singular_values"] for one in modules}
    assert all(one["singular_values"] == pytest.approx(by_name[one["name"]], rel=1e-4) for one in theirs)
    assert ask(client, "delete", part)["deleted"] and part not in {one["run"] for one in ask(client, "list_runs")}


def test_a_run_is_stopped_and_goes_on_and_a_sweep_is_asked_after(client, short):
    run = ask(client, "train", steps=100_000, fresh=True, **short)["run"]
    assert ask(client, "status", run, wait=50, types=["loss"])["state"] != "done"
    ask(client, "stop", run)
    stopped = ended(client, run)
    assert stopped["state"] == "cancelled" and stopped["resumable"]
    assert "stop it first" in refused(client, "delete", ask(client, "resume", run)["run"])
    ask(client, "stop", run)
    ended(client, run)
    ask(client, "delete", run)


def swept(client: Client, sweep: str, *states: str) -> dict:
    """How a sweep stands once it is in one of these states."""
    return wait_until(lambda: (told := ask(client, "sweep_status", sweep))["state"] in states and told, str(states))


def test_a_sweep_from_its_start_to_its_end_with_a_pause_then_deleted(client, short):
    options = {**short, "rank": None}
    sweep = ask(client, "sweep", ranks=[1, 2], seeds=[1, 2], steps=3, **options)["sweep"]
    ask(client, "change_sweep", sweep, "pause")
    paused = swept(client, sweep, "paused")
    assert all(run["state"] in ("paused", "planned", "done") for run in paused["runs"])
    assert ask(client, "list_sweeps")[0] == {
        "sweep": sweep, "label": paused["label"], "state": "paused", "runs": 4,
        "ended": sum(run["state"] == "done" for run in paused["runs"]), "score": ask(client, "list_sweeps")[0]["score"],
    }  # fmt: skip
    ask(client, "change_sweep", sweep, "run")
    done = swept(client, sweep, "done")
    assert {(run["rank"], run["seed"]) for run in done["runs"]} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {run["state"] for run in done["runs"]} == {"done"}
    assert {run["step"] for run in done["runs"]} == {3} and done["best"]["run"] and done["words"]
    assert all(ask(client, "get_run", run["run"])["state"] == "done" for run in done["runs"])
    assert ask(client, "delete_sweep", sweep) == {"sweep": sweep, "deleted": True, "runs": 4}
    assert "no sweep" in refused(client, "sweep_status", sweep)
    assert sweep not in {one["sweep"] for one in ask(client, "list_sweeps")}
    assert not {run["run"] for run in done["runs"]} & {run["run"] for run in ask(client, "list_runs")}


def test_a_sweep_is_stopped_and_only_then_deleted(client, short):
    sweep = ask(client, "sweep", ranks=[1, 2], steps=100_000, **{**short, "rank": None})["sweep"]
    assert "stop it first" in refused(client, "delete_sweep", sweep)
    ask(client, "change_sweep", sweep, "stop")
    assert len(swept(client, sweep, "stopped")["runs"]) == 2
    assert ask(client, "delete_sweep", sweep)["deleted"]


def asked_again(client: Client, name: str, **given) -> dict:
    """The result of what takes long."""
    while (told := ask(client, name, wait=50, **given))["state"] == "running":
        pass
    return told


def test_readings_of_a_run_are_those_of_the_commands(client, trained, at_hand):
    modules = ask(client, "spectra", trained)["modules"]
    name = max(modules, key=lambda one: one["singular_values"][0])["name"]
    read = asked_again(client, "direction", run=trained, module=name, index=2, prompt="Hello", max_new_tokens=4)
    assert (read["module"], read["index"], read["prompt"]) == (name, 2, "Hello")
    assert set(read["answers"]) == {"base", "whole", "alone", "without", "random"} and read["sentence"]
    turned = asked_again(client, "dial", run=trained, values=[0.0, 1.0], rows=4)
    assert [point["value"] for point in turned["points"]] == [0.0, 1.0] and turned["rows"] == 4
    assert turned["points"][0]["score"]["value"] == turned["points"][0]["score"]["base"], "nothing added is the base"
    cast = asked_again(client, "forecast", run=trained)
    assert 0 <= cast["foretold"] <= cast["of"] and set(cast["modules"]) == {one["name"] for one in modules}
    part = ask(client, "cut", trained, k=1)["run"]
    scores = asked_again(client, "merge_scores", runs=[trained, part], weights=[-0.5, 1], rows=4)
    assert {point["kind"] for point in scores["points"]} == {"grid", "asked", "mean", "random"}
    assert [point["weights"] for point in scores["points"] if point["kind"] == "asked"] == [[-0.5, 1.0]]
    ask(client, "delete", part)


def test_a_run_is_given_to_be_done_again(client, trained, at_hand):
    line = ask(client, "reproduce", trained)
    assert line["text"].startswith("python -m lora_playground train") and "--rank 4" in line["text"]
    assert json.loads(ask(client, "reproduce", trained, "config")["text"])["variant"]["rank"] == 4
    assert "import torch" in ask(client, "reproduce", trained, "script")["text"]
    assert json.loads(ask(client, "reproduce", trained, "notebook")["text"])["cells"]
    names = zipfile.ZipFile(ask(client, "reproduce_bundle", trained)).namelist()
    assert {"config.json", "command.txt", "reproduce.py", "reproduce.ipynb"} <= set(names)


def test_lessons_and_claims_are_listed(client):
    lesson = ask(client, "list_lessons")[0]
    assert lesson["title"] and lesson["steps"]
    plain = ask(client, "lesson_sheet", lesson["name"])["sheet"]
    assert lesson["title"] in plain and plain != ask(client, "lesson_sheet", lesson["name"], True)["sheet"]
    assert all(claim["verdict"] and claim["paper"] for claim in ask(client, "list_claims"))


def test_what_the_command_line_has_made_is_a_programs_to_delete(client, place, trained):
    """Whoever has the token is the operator."""
    store = place[0].supervisor.runs
    made = store.create(store.get(trained).config())
    assert place[0].supervisor.job(made.id).owner == ""
    assert ask(client, "delete", made.id)["deleted"]


@pytest.mark.parametrize("run", ["../..", "../../etc/passwd", "nonesuch", "", 5, [1], {"a": 1}, "a\0b", "a" * 65])
def test_an_id_that_is_none_is_refused_in_the_same_words_everywhere(client, place, run):
    with pytest.raises(PlaygroundError) as failure:
        place[0].supervisor.runs.get(run)
    everywhere = ("status", "stop", "resume", "delete", "spectra", "evaluate", "spectrum_picture", "export", "cut")
    for name in ("get_run", *(everywhere if run == "../.." else ())):
        assert refused(client, name, run) == str(failure.value), name
    assert refused(client, "chat", "Hello", runs=[run]) == str(failure.value)


def test_bad_values_are_refused_in_the_schemas_words(client, place, trained):
    for given in ({"rank": 0}, {"rank": "x"}, {"steps": 2.5}, {"variant": "nonesuch"}, {"variant": 5},
                  {"config": [1]}, {"schedule": "zig"}, {"variant_options": {"bad": 1}}):  # fmt: skip
        with pytest.raises(PlaygroundError) as failure:
            run_options.build(given)
        assert refused(client, "train", **given) == refused(client, "estimate", **given) == str(failure.value)
    assert "choose one of" in refused(client, "train", dataset="../../etc")
    for name, given in (
        ("status", {"run": trained, "since": -1}), ("status", {"run": trained, "wait": 51}),
        ("status", {"run": trained, "types": "loss"}), ("evaluate", {"run": trained, "rows": True}),
        ("cut", {"run": trained, "k": -1}), ("cut", {"run": trained, "mode": "some"}),
        ("export", {"run": trained, "format": "zip"}), ("spectrum_picture", {"run": trained, "module": "none"}),
        ("chat", {"prompt": "Hi", "temperature": 9.0}), ("chat", {"prompt": "Hi", "history": "x"}),
        ("chat", {"prompt": "Hi", "keep": -2, "runs": [trained]}), ("chat", {"prompt": 7}),
        ("upload_dataset", {"text": "a,b", "hub": "x/y"}), ("upload_dataset", {"text": 5}),
        ("upload_dataset", {"text": "{}", "columns": {"prompt": 5}}), ("list_runs", {"limit": 0}),
        ("get_dataset", {"name": ["pirate"]}), ("get_model", {"source": 3}), ("get_variant", {"name": {}}),
        ("merge", {"runs": [trained]}), ("merge", {"runs": "x"}), ("sweep_status", {"sweep": "../x"}),
        ("sweep", {"ranks": ["1"]}), ("dial", {"run": trained, "values": "x"}),
        ("direction", {"run": trained, "module": 5}), ("direction", {"run": trained, "module": "none"}),
        ("reproduce", {"run": trained, "format": "bundle"}), ("lesson_sheet", {"name": 5}),
        ("import_adapter", {"hub": "../../etc"}),
    ):  # fmt: skip
        said = refused(client, name, **given)
        assert "went wrong" not in said and said.endswith((".", "'.")) and len(said) > 20, (name, given, said)


def test_only_files_that_were_sent_are_read(place, client):
    for path in ("/etc/passwd", str(place[0].home / "visitors.secret")):
        for given in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
            data = [given, "", "rows.jsonl", "", "train", None, None, 0]
            body = {"data": data}
            posted = httpx.post(f"{place[1]}gradio_api/call/upload_dataset", json=body, headers=HEADERS)
            event = posted.json()["event_id"]
            said = httpx.get(f"{place[1]}gradio_api/call/upload_dataset/{event}", headers=HEADERS, timeout=60).text
            assert "event: error" in said and "root:" not in said


def test_strangers_are_refused_with_a_sentence(place):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        said = refused(Client(place[1], headers=headers, verbose=False), "list_runs")
        assert "token" in said and TOKEN not in said
        assert httpx.post(f"{place[1]}gradio_api/mcp/", headers=headers).status_code == 401


def test_the_main_path_by_mcp_alone(place):
    asyncio.run(_by_mcp(place[1], place[2]))


async def _by_mcp(url: str, model: str) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(f"{url}gradio_api/mcp/", headers=HEADERS) as (reads, writes, _):
        async with ClientSession(reads, writes) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert {"train", "status", "chat", "spectrum_picture", "sweep", "direction", "dial"} <= set(tools)
            schema = tools["train"].inputSchema["properties"]["steps"]
            assert schema["minimum"] == 1 and "Optimiser steps" in schema["description"]
            assert "additional_description" not in json.dumps(tools["train"].inputSchema)

            async def call(tool: str, **given):
                result = await session.call_tool(tool, given)
                assert not result.isError, result.content[0].text
                return result.content

            async def told(tool: str, **given):
                return json.loads((await call(tool, **given))[0].text)

            data = (await told("upload_dataset", text=ROWS))["dataset"]
            run = (await told("train", model=model, dataset=data, steps=20, fresh=True, **SHORT))["run"]
            while not (await told("status", run=run, wait=40, until="end", types=["message"]))["ended"]:
                pass
            assert (await told("get_run", run=run))["state"] == "done"
            answers = await told("chat", prompt="Hello", runs=[run], max_new_tokens=8)
            assert answers["done"] and answers["base"] and set(answers["adapted"]) == {run}
            image = (await call("spectrum_picture", run=run))[0]
            assert image.type == "image" and image.mimeType == "image/png"
            import base64

            assert Image.open(io.BytesIO(base64.b64decode(image.data))).size == (900, 520)
            for given in ({"rank": "x"}, {"rank": 0}, {"variant": 5}):
                with pytest.raises(PlaygroundError) as failure:
                    run_options.build(given)
                result = await session.call_tool("train", given)
                assert result.isError and result.content[0].text == str(failure.value)
            missing = await session.call_tool("get_run", {"run": "../.."})
            assert missing.isError and "is not a run's id" in missing.content[0].text
