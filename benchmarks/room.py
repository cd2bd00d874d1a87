"""Many people on one server: how fast runs train while others watch, how soon pages and chats answer, what it takes.

A server of its own trains the embedded model. Watchers ask the live route as a page does; people press Train within
ten seconds; chats ask at once while two runs train; with `--browser` one real Chromium has the page open. Everything is
on this machine, the askers too. Ratios compare with what the same server did before, alone.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PATIENCE = 3600.0
IDLE = 20.0
"""Seconds without a page or a job in which the web process is measured."""
PERIOD = 1.0
"""Seconds between two questions of a page while a run trains."""


# --- the server, which takes orders by its standard input -------------------------------------------------------------


def serve(home: Path, port: int) -> None:
    """Launches the app, then answers one JSON line with another: train, jobs, chat."""
    from lora_playground.config import RunConfig
    from lora_playground.ui.serve import Server

    server = Server(home)
    server.launch("127.0.0.1", port, quiet=True)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "train" in order:
            config = RunConfig.parse({"training": order["train"]})
            answer: Any = server.supervisor.submit(config, order["owner"], fresh=order["fresh"]).id
        elif "jobs" in order:
            answer = {job.id: [job.state, job.step, job.error_message] for job in server.supervisor.jobs()}
        else:
            answer = asyncio.run(talk(server.chat, order["chat"]))
        print(json.dumps(answer), flush=True)
    server.close()


async def talk(chat: Any, count: int) -> list[float | str]:
    """Seconds until the first word of each of `count` chats that ask at once, or what went wrong."""
    from lora_playground.chat.protocol import ChatRequest

    async def first_word(number: int) -> float | str:
        words = {"role": "user", "content": f"Tell me about the number {number}."}
        request = ChatRequest.parse({"panes": [{}], "messages": [[words]], "max_new_tokens": 48, "client": str(number)})
        began, first = time.monotonic(), None
        async for event in chat.stream(request):
            if event.type == "error":
                return str(event.text)
            if event.type == "tokens" and first is None:
                first = time.monotonic() - began
        return first if first is not None else "no word came"

    await chat.warm()
    return await asyncio.gather(*(first_word(number) for number in range(count)))


# --- those who use it -------------------------------------------------------------------------------------------------


class Room:
    """A server process and what is asked of it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port, self.seed, self.errors = home, port, 0, list[str]()
        command = [sys.executable, __file__, "--serve", str(home), "--port", str(port)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.read()

    def read(self) -> Any:
        assert self.server.stdout is not None
        while line := self.server.stdout.readline():
            try:
                return json.loads(line)
            except ValueError:
                continue  # what a library prints
        raise SystemExit("the server ended")

    def order(self, **order: Any) -> Any:
        assert self.server.stdin is not None
        print(json.dumps(order), file=self.server.stdin, flush=True)
        return self.read()

    def train(self, steps: int, owner: str, seed: int | None = None, fresh: bool = True) -> str:
        """Presses Train; without a seed, with one that nobody has had."""
        self.seed += 1
        training = {"steps": steps, "seed": 1000 + self.seed if seed is None else seed}
        return self.order(train=training, owner=owner, fresh=fresh)

    def wait(self, ids: list[str]) -> None:
        """Until all have ended; what failed is an error."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            jobs = self.order(jobs=True)
            if all(jobs[id][0] in ("done", "failed", "cancelled", "interrupted") for id in ids):
                self.errors += [f"{id}: {jobs[id]}" for id in ids if jobs[id][0] != "done"]
                return
            time.sleep(0.5)
        self.errors.append("runs did not end in time")

    def result(self, id: str) -> dict[str, Any]:
        return json.loads((self.home / "runs" / id / "result.json").read_text())

    def one_run(self, steps: int) -> tuple[str, float]:
        """A run by itself: its id, and the seconds from Train to its result."""
        began = time.monotonic()
        id = self.train(steps, "one")
        self.wait([id])
        return id, time.monotonic() - began

    def cpu(self) -> float:
        """Processor seconds of the web process alone."""
        return sum(psutil.Process(self.server.pid).cpu_times()[:2])

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(60)


class Watchers:
    """So many open pages that ask what is new once a second; hold it as a context.

    Attributes:
        seconds: that each question took. errors: what went wrong.
    """

    def __init__(self, room: Room, run: str, count: int) -> None:
        self.room, self.run, self.count = room, run, count
        self.seconds, self.errors = list[float](), list[str]()
        self._over = threading.Event()

    def __enter__(self) -> Watchers:
        self._threads = [threading.Thread(target=self._watch, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, number: int) -> None:
        self._over.wait(PERIOD * number / self.count)  # not all in the same moment
        page = http.client.HTTPConnection("127.0.0.1", self.room.port, timeout=60)
        page.request("GET", "/")
        answer = page.getresponse()
        answer.read()
        cookie = (answer.getheader("set-cookie") or "").split(";")[0]
        have = {"list": "", "card": "", "probes": "", "curve": "0", "pictures": ""}
        while not self._over.is_set():
            began = time.monotonic()
            try:
                query = "&".join(f"{name}={value}" for name, value in have.items())
                page.request("GET", f"/live?{query}&run={self.run}&module=", headers={"Cookie": cookie})
                told = json.loads(page.getresponse().read())
                self.seconds.append(time.monotonic() - began)
                for name in have:
                    if name in told:
                        have[name] = str(told[name]["version"])
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
                page.close()
            self._over.wait(max(0.0, PERIOD - (time.monotonic() - began)))
        page.close()


@contextmanager
def browser(port: int, run: str) -> Any:
    """One real Chromium that has the page of a run open."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch()
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/?run={run}")
        yield
        chromium.close()


def p95(seconds: list[float]) -> float | None:
    return round(sorted(seconds)[int(0.95 * (len(seconds) - 1))], 3) if seconds else None


# --- what is measured -------------------------------------------------------------------------------------------------


def watched(room: Room, given: argparse.Namespace, alone: dict[str, Any]) -> dict[str, Any]:
    """A run that many watch, or one browser, against the one that nobody watched."""
    began, used = time.monotonic(), room.cpu()
    id = room.train(given.steps, "one")
    with ExitStack() as stack:
        if given.browser:
            stack.enter_context(browser(room.port, id))
        watchers = stack.enter_context(Watchers(room, id, given.watchers))
        room.wait([id])
    seconds, cores = time.monotonic() - began, (room.cpu() - used) / (time.monotonic() - began)
    room.errors += watchers.errors
    return {
        "training_ratio": round(room.result(id)["tokens_per_second"] / alone["tokens_per_second"], 3),
        "watched_run_seconds": round(seconds, 1),
        "poll_p95": p95(watchers.seconds),
        "polls": len(watchers.seconds),
        "web_cores": round(cores, 3),
    }


def crowd(room: Room, given: argparse.Namespace, one: float) -> dict[str, Any]:
    """Everybody trains, each with a seed of their own; then everybody the same lesson."""
    found: dict[str, Any] = {}
    for name, seed in (("makespan", None), ("lesson", 7)):
        began, ids = time.monotonic(), []
        for number in range(given.people):
            ids.append(room.train(given.steps, f"person {number}", seed, fresh=False))
            time.sleep(min(10.0 / given.people, 1.0))
        room.wait(ids)
        found[name] = round(time.monotonic() - began, 1)
    found["makespan_ratio"] = round(found["makespan"] / (given.people * one), 3)
    found["lesson_ratio"] = round(found["lesson"] / one, 3)
    return found


def chats(room: Room, given: argparse.Namespace) -> dict[str, Any]:
    """Many chats at once while two runs train."""
    ids = [room.train(2 * given.steps, f"trainer {number}") for number in range(2)]
    while not all(room.order(jobs=True)[id][1] for id in ids[:1]):
        time.sleep(0.2)
    said = room.order(chat=given.chats)
    room.errors += [words for words in said if isinstance(words, str)]
    room.wait(ids)
    return {"first_token_p95": p95([seconds for seconds in said if not isinstance(seconds, str)])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--people", type=int, default=4, help="who train")
    parser.add_argument("--watchers", type=int, default=10, help="open pages")
    parser.add_argument("--chats", type=int, default=10, help="chats at once")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--browser", action="store_true", help="one of the watchers is a real Chromium")
    parser.add_argument("--port", type=int, default=7993)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="HOME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve), given.port)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder) / "home", given.port)
        try:
            room.one_run(4)  # imports and caches
            used = room.cpu()
            time.sleep(IDLE)
            resting = (room.cpu() - used) / IDLE
            memory = psutil.Process(room.server.pid).memory_info().rss
            id, one = room.one_run(given.steps)
            alone = room.result(id)
            found = {
                "idle_web_cores": round(resting, 4),
                "one_run": round(one, 1),
                "tokens_per_second": round(alone["tokens_per_second"], 1),
            }
            found |= watched(room, given, alone) if given.watchers or given.browser else {}
            found |= chats(room, given) if given.chats else {}
            found |= crowd(room, given, one) if given.people else {}
            grown = (psutil.Process(room.server.pid).memory_info().rss - memory) / 1e6
            found |= {
                "web_memory_grown_mb": round(grown, 1),
                "errors": len(room.errors),
                "first_errors": room.errors[:3],
            }
        finally:
            room.close()
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
