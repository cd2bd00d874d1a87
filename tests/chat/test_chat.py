"""The chat as the web process sees it: real process, real socket, tiny base."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch

from lora_playground.analysis.truncation import Truncation
from lora_playground.analysis.update import load_updates
from lora_playground.chat.client import ChatClient
from lora_playground.chat.protocol import ChatEvent, ChatRequest
from lora_playground.config import ModelConfig
from lora_playground.errors import ChatError, ConfigError
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.loading import load_base
from lora_playground.runs import RunStore
from tests.chat.conftest import House, answers
from tests.waiting import PATIENCE, wait_until


async def collect(client: ChatClient, request: ChatRequest, key: str | None = None) -> list[ChatEvent]:
    return [event async for event in client.stream(request, key)]


async def until_free(client: ChatClient) -> dict[str, Any]:
    """The process's state once it decodes nothing and nobody waits."""
    async with asyncio.timeout(PATIENCE):
        while True:
            state = await client.state()
            if state["rows"] == 0 and state["waiting"] == 0:
                return state
            await asyncio.sleep(0.05)


def solo(house: House, name: str | None, text: str, limit: int, strength: float = 1.0, cut: Any = None) -> str:
    """The answer of one model alone, decoded in this process."""
    base = load_base(ModelConfig(source=str(house.base), quantisation="none"), device="cpu", dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    update = None
    if name is not None:
        updates = load_updates(RunStore(house.home).get(house.runs[name]).update_path)
        update = RowUpdate(decoder.adapter(updates), strength, None if cut is None else Truncation.between(*cut))
    return decoder.generate([[{"role": "user", "content": text}]], update, max_new_tokens=limit)[0]


def test_four_panes_answer_as_each_would_alone(client: ChatClient, house: House) -> None:
    runs = house.runs
    panes = [
        {},
        {"run": runs["low"]},
        {"run": runs["high"], "strength": 0.5, "cut": [0, 3]},
        {"run": runs["dense"]},
    ]
    events = asyncio.run(collect(client, house.request(panes)))
    start = next(event for event in events if event.type == "start")
    assert start.verified is not None and start.verified.ok and start.verified.drift < 1e-5
    assert start.panes is not None and "<|im_start|>assistant" in start.panes[0].prompt
    text = "What is the name of your dog?"
    assert answers(events) == {
        0: solo(house, None, text, 16),
        1: solo(house, "low", text, 16),
        2: solo(house, "high", text, 16, 0.5, (0, 3)),
        3: solo(house, "dense", text, 16),
    }
    for pane in range(4):
        tokens = [token for event in events if event.pane == pane for token in event.tokens or []]
        end = next(event.end for event in events if event.type == "pane_end" and event.pane == pane)
        assert end is not None and end.tokens == len(tokens)
        assert "".join(token.text for token in tokens) == end.text.rstrip("\ufffd")
        assert all(token.top and len(token.top) == 5 for token in tokens)
        assert (pane == 0) == all(token.kl is None for token in tokens)
        if pane:
            base = next(event.end for event in events if event.type == "pane_end" and event.pane == 0)
            assert base is not None
            expected = [token.id for event in events if event.pane == 0 for token in event.tokens or []]
            got = [token.id for token in tokens]
            parted = [i for i, (a, b) in enumerate(zip(got, expected)) if a != b]
            if not parted and len(got) != len(expected):
                parted = [min(len(got), len(expected))]
            assert end.first_difference == (parted[0] if parted else None)
    assert events[-1].type == "end" and events[-1].tokens_per_second


def test_zero_adapter_gives_the_same_letters_at_temperature_one(client: ChatClient, house: House) -> None:
    panes = [{}, {"run": house.runs["zero"]}, {"run": house.runs["low"], "strength": 0.0}]
    request = house.request(panes, temperature=1.0, seed=7, max_new_tokens=60)
    events = asyncio.run(collect(client, request))
    texts = answers(events)
    assert texts[0] == texts[1] == texts[2] and len(texts[0]) > 10
    kl = [token.kl for event in events if event.pane == 1 for token in event.tokens or []]
    assert max(value for value in kl if value is not None) < 1e-6
    other = asyncio.run(collect(client, house.request(panes, temperature=1.0, seed=8, max_new_tokens=60)))
    assert answers(other)[0] != texts[0]


def test_a_cut_to_all_directions_is_the_untouched_adapter_and_to_none_the_base(
    client: ChatClient, house: House
) -> None:
    """Four panes of one request: one prompt, one draw of noise. At temperature 1 the smallest change would show."""
    for name, rank in (("high", 6), ("dense", 10_000)):
        run = house.runs[name]
        panes: list[dict[str, Any]] = [{}, {"run": run}, {"run": run, "cut": [0, rank]}, {"run": run, "cut": [0, 0]}]
        events = asyncio.run(collect(client, house.request(panes, temperature=1.0, seed=5, max_new_tokens=60)))
        base, whole, at_r, at_0 = (
            [(token.id, token.logprob) for event in events if event.pane == pane for token in event.tokens or []]
            for pane in range(4)
        )
        assert at_r == whole and at_0 == base, "to the token, and to the last digit of its probability"
        assert whole != base
    weakest = house.request([{"run": house.runs["high"], "cut": [-2, 0]}, {"run": house.runs["high"], "cut": [4, 6]}])
    texts = answers(asyncio.run(collect(client, weakest)))
    assert texts[0] == texts[1], "the weakest two of six"


def test_many_talk_at_once_and_none_hears_another(client: ChatClient, house: House) -> None:
    names: list[str | None] = [None, "low", "high", "dense"]
    texts = [f"Question {i}: where does the baker live? {'river ' * (i % 5)}" for i in range(24)]

    async def everybody() -> list[list[ChatEvent]]:
        requests = [
            house.request([{}, {"run": house.runs[name]} if name else {}], text, client=f"c{i}")
            for i, (text, name) in enumerate(zip(texts, names * 6))
        ]
        return list(await asyncio.gather(*(collect(client, request) for request in requests)))

    together = asyncio.run(everybody())
    for index in (0, 1, 2, 3, 13, 22, 23):
        alone = {0: solo(house, None, texts[index], 16), 1: solo(house, (names * 6)[index], texts[index], 16)}
        assert answers(together[index]) == alone


def test_teacher_forcing_reads_the_bases_words(client: ChatClient, house: House) -> None:
    request = house.request([{}, {"run": house.runs["low"]}], teacher_forced=True)
    events = asyncio.run(collect(client, request))
    texts = answers(events)
    assert texts[0] == texts[1]
    tokens = [token for event in events if event.pane == 1 for token in event.tokens or []]
    assert any(token.choice is not None for token in tokens)
    assert all(token.kl is not None for token in tokens)
    end = next(event.end for event in events if event.type == "pane_end" and event.pane == 1)
    assert end is not None
    assert end.first_difference == next(i for i, token in enumerate(tokens) if token.choice is not None)


def test_own_history_for_each_pane_is_compared_on_equal_words(client: ChatClient, house: House) -> None:
    def talk(reply: str) -> list[dict[str, str]]:
        turns = [("user", "hello"), ("assistant", reply), ("user", "again")]
        return [{"role": role, "content": content} for role, content in turns]

    request = house.request([{}, {"run": house.runs["zero"]}], messages=[talk("the sea"), talk("the wind")])
    tokens = [t for e in asyncio.run(collect(client, request)) if e.pane == 1 for t in e.tokens or []]
    assert tokens and all(token.kl is not None and token.kl < 1e-6 for token in tokens)


def test_stop_ends_within_a_token_and_frees_the_slot(client: ChatClient, house: House) -> None:
    async def talk() -> tuple[list[ChatEvent], dict[str, Any]]:
        events = []
        request = house.request([{}, {"run": house.runs["low"]}], max_new_tokens=400, temperature=1.0)
        async for event in client.stream(request, key="k"):
            events.append(event)
            if event.type == "tokens":
                client.cancel("k")
        return events, await until_free(client)

    events, state = asyncio.run(talk())
    ends = [event.end for event in events if event.end is not None]
    assert {end.reason for end in ends} == {"cancelled"} and max(end.tokens for end in ends) < 400
    assert len({end.tokens for end in ends}) == 1  # both panes stopped at the same token
    assert state["rows"] == 0 and state["exchanges"] == 0


def test_a_client_that_goes_frees_its_slot(client: ChatClient, house: House) -> None:
    async def leave() -> tuple[int, dict[str, Any]]:
        stream = client.stream(house.request([{}, {"run": house.runs["low"]}], max_new_tokens=450, temperature=1.0))
        async for event in stream:
            if event.type == "tokens":
                break
        during = (await client.state())["rows"]
        await stream.aclose()  # type: ignore[attr-defined]
        return during, await until_free(client)

    during, state = asyncio.run(leave())
    assert during >= 2 and state["rows"] == 0


def test_killed_process_comes_back_and_says_so(client: ChatClient, house: House) -> None:
    async def talk(request: ChatRequest) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        async for event in client.stream(request):
            if event.type == "start" and not events and client.pid is not None:
                os.kill(client.pid, signal.SIGKILL)
            events.append(event)
        return events

    before = client.restarts
    for seed in range(5):  # on a busy machine an answer may have been sent whole before the signal arrives
        panes = [{}, {"run": house.runs["low"]}]
        request = house.request(panes, max_new_tokens=450, temperature=1.0, seed=seed)
        events = asyncio.run(talk(request))
        if any(event.type == "restarted" for event in events):
            break
    restarted = next(event for event in events if event.type == "restarted")
    assert "SIGKILL" in restarted.text and client.restarts > before
    after = events[events.index(restarted) :]
    assert after[-1].type == "end" and len(answers(after)) == 2
    assert answers(after) == answers(asyncio.run(collect(client, request)))


def test_process_ends_with_its_parent(house: House) -> None:
    code = (
        "import sys, time\nfrom lora_playground.chat.client import ChatClient\n"
        "client = ChatClient(sys.argv[1])\nprint(client.start().pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(house.home)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_cannot_be_answered_is_said_in_a_sentence(client: ChatClient, house: House) -> None:
    def error(request: ChatRequest) -> str:
        events = asyncio.run(collect(client, request))
        assert [event.type for event in events if event.type != "status"] == ["error"]
        return events[-1].text

    assert "There is no run nope" in error(house.request([{"run": "nope"}]))
    assert "nothing to chat with yet" in error(house.request([{"run": house.runs["empty"]}]))
    assert "reads at most 511" in error(house.request([{}], "bread " * 3000))
    embedded = ModelConfig(source="embedded", quantisation="none")
    elsewhere = house.request([{"run": house.runs["low"]}]).model_copy(update={"base": embedded})
    assert error(elsewhere)


def test_old_messages_are_left_out_when_the_talk_is_too_long(client: ChatClient, house: House) -> None:
    turns = [
        {"role": role, "content": "the wind is fair today " * 8} for _ in range(20) for role in ("user", "assistant")
    ]
    turns.append({"role": "user", "content": "and now?"})
    events = asyncio.run(collect(client, house.request([{}], messages=[turns])))
    start = next(event for event in events if event.type == "start")
    assert start.panes is not None and start.panes[0].dropped > 0 and start.panes[0].tokens < 512
    assert "and now?" in start.panes[0].prompt


@pytest.mark.parametrize(
    "change,field",
    [
        ({"panes": []}, "panes"),
        ({"panes": [{}] * 7}, "panes"),
        ({"panes": [{"run": "../../etc"}]}, "panes"),
        ({"panes": [{"strength": 2.5}]}, "strength"),
        ({"panes": [{"run": "a", "mixture": {"runs": [{"run": "b"}]}}]}, "mixture"),
        ({"panes": [{"direction": {"module": "m", "index": 1}}]}, "name the run"),
        ({"panes": [{"cut": [3, 1]}]}, "cut"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"messages": [[{"role": "system", "content": "x"}]]}, "role"),
        ({"messages": [[{"role": "user", "content": " "}]]}, "Write a message first"),
        ({"messages": [[{"role": "user", "content": "a" * 30_000}]]}, "content"),
        ({"seed": -1}, "seed"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_requests_out_of_range_are_refused(change: dict[str, Any], field: str) -> None:
    good: dict[str, Any] = {"panes": [{}], "messages": [[{"role": "user", "content": "hi"}]]}
    ChatRequest.parse(good)
    with pytest.raises(ConfigError, match=field):
        ChatRequest.parse({**good, **change})


def test_a_process_that_keeps_dying_is_left_alone(house: House) -> None:
    client = ChatClient(house.home)
    try:
        for _ in range(6):
            process = client.start()
            process.kill()
            process.wait()
        with pytest.raises(ChatError, match="5 times"):
            client.start()
    finally:
        client.close()


def test_client_needs_no_torch() -> None:
    heavy = "('torch', 'transformers', 'peft')"
    code = f"import lora_playground.chat.client, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ask_without_an_event_loop(client: ChatClient, house: House) -> None:
    assert torch.get_num_threads() >= 1
    events = list(client.ask(house.request([{}])))
    assert events[-1].type == "end" and answers(events)
