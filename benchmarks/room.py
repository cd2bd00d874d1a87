"""Many people on one server: how fast runs train while others watch, how soon pages and chats answer, what it takes.

A server of its own trains the embedded model. Watchers ask the live route as a page does; people press Train within
ten seconds; chats ask at once while two runs train; one real Chromium has the page open. Everything is on this machine,
the askers too. Ratios compare with what was measured just before, alone. `--only ROW ...` chooses rows, so that a call
fits into a few quiet minutes; each call measures the lone runs that its rows are compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
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

    def __init__(self, home: Path, threads: int | None = None) -> None:
        self.home, self.seed, self.errors = home, 0, list[str]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, __file__, "--serve", str(home), "--port", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen(command, env=environment, **pipes)
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
        training = {"steps": steps, "batch_tokens": 512, "seed": 1000 + self.seed if seed is None else seed}
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
    """So many open pages that ask what is new once a second, from `watch` on; hold it as a context.

    Attributes:
        seconds: that each question took. errors: what went wrong.
    """

    def __init__(self, room: Room, count: int) -> None:
        self.room, self.count, self.run = room, count, ""
        self.seconds, self.errors = list[float](), list[str]()
        self._open, self._over = threading.Barrier(count + 1, timeout=120), threading.Event()

    def __enter__(self) -> Watchers:
        self._threads = [threading.Thread(target=self._watch, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def watch(self, run: str) -> None:
        """All look at a run, once each has its page."""
        self.run = run
        self._open.wait()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, number: int) -> None:
        page = http.client.HTTPConnection("127.0.0.1", self.room.port, timeout=60)
        page.request("GET", "/")
        answer = page.getresponse()
        answer.read()
        cookie = (answer.getheader("set-cookie") or "").split(";")[0]
        self._open.wait()
        self._over.wait(PERIOD * number / self.count)  # not all in the same moment
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
def browser(port: int) -> Any:
    """One real Chromium that has the page open; gives a function that shows a run there, as a press of Train does."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = os.environ.get("LORA_PLAYGROUND_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#lp-train").wait_for()
        page.wait_for_timeout(5000)  # what the page draws at first is drawn
        yield lambda run: page.evaluate("run => lp.live.open(run)", run)
        chromium.close()


def p95(seconds: list[float]) -> float | None:
    return round(sorted(seconds)[int(0.95 * (len(seconds) - 1))], 3) if seconds else None


# --- what is measured -------------------------------------------------------------------------------------------------


@contextmanager
def busy() -> Any:
    """Another process that wants a core all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    process.kill()
    process.wait()


Found = dict[str, Any]


class Rows:
    """The rows of the table: each gives its figures, compared with a lone run on one thread and one on all cores."""

    def __init__(self, room: Room, given: argparse.Namespace, single: Found) -> None:
        self.room, self.given, self.single = room, given, single
        id, self.one = room.one_run(given.steps)
        self.alone = room.result(id)

    def speed(self, id: str) -> Found:
        """Training speed of a run, and its ratios to the lone ones."""
        pace = self.room.result(id)["tokens_per_second"]
        found = {"tokens_per_second": round(pace, 1), "of_all_cores": round(pace / self.alone["tokens_per_second"], 3)}
        return found | ({"of_one_thread": round(pace / self.single["tokens_per_second"], 3)} if self.single else {})

    def watchers(self) -> Found:
        """Many pages watch a run."""
        room = self.room
        with Watchers(room, self.given.watchers) as pages:
            id = room.train(self.given.steps, "one")
            pages.watch(id)
            used, began = room.cpu(), time.monotonic()
            room.wait([id])
            cores = (room.cpu() - used) / (time.monotonic() - began)
        room.errors += pages.errors
        polls = {"poll_p95": p95(pages.seconds), "polls": len(pages.seconds), "web_cores": round(cores, 3)}
        return {"training_ratio": self.speed(id)["of_all_cores"], **self.speed(id), **polls}

    def busy(self) -> Found:
        """A run beside another busy process."""
        with busy():
            id, _ = self.room.one_run(self.given.steps)
        return self.speed(id)

    def two(self) -> Found:
        """Two people's runs at once."""
        ids = [self.room.train(self.given.steps, f"person {number}") for number in range(2)]
        self.room.wait(ids)
        pace = sum(self.room.result(id)["tokens_per_second"] for id in ids)
        return {"together_of_all_cores": round(pace / self.alone["tokens_per_second"], 3)}

    def browser(self) -> Found:
        """One real browser has the page open and looks at the run, on the same cores."""
        with browser(self.room.port) as show:
            began = time.monotonic()
            id = self.room.train(self.given.steps, "one")
            show(id)
            self.room.wait([id])
            seconds = time.monotonic() - began
        return {"seconds": round(seconds, 1), "of_no_browser": round(seconds / self.one, 3)}

    def chats(self) -> Found:
        """Many chats at once while two runs train."""
        room = self.room
        ids = [room.train(2 * self.given.steps, f"trainer {number}") for number in range(2)]
        while not all(room.order(jobs=True)[id][1] for id in ids):
            time.sleep(0.2)
        cold = room.order(chat=1)  # this one waits for the chat process, which a page starts as its tab is opened
        said = room.order(chat=self.given.chats)
        room.errors += [words for words in said if isinstance(words, str)]
        training = sum(room.order(jobs=True)[id][0] == "training" for id in ids)
        room.wait(ids)
        first = [seconds for seconds in said if not isinstance(seconds, str)]
        found = {"answered": len(first), "first_token_p95": p95(first), "still_training": training}
        return found | {"first_of_all": cold[0]}

    def people(self) -> Found:
        """Everybody trains within ten seconds, each with a seed of their own."""
        seconds = self._crowd(None)
        return {"makespan": seconds, "of_one_after_another": round(seconds / (self.given.people * self.one), 3)}

    def lesson(self) -> Found:
        """Everybody trains the same lesson."""
        seconds = self._crowd(7)
        return {"makespan": seconds, "of_one_run": round(seconds / self.one, 3)}

    def _crowd(self, seed: int | None) -> float:
        began, ids = time.monotonic(), []
        for number in range(self.given.people):
            ids.append(self.room.train(self.given.steps, f"person {number}", seed, fresh=False))
            time.sleep(min(10.0 / self.given.people, 1.0))
        self.room.wait(ids)
        return round(time.monotonic() - began, 1)

    def soak(self) -> Found:
        """Pages that ask, chats and runs for a while: what the web process holds after a third, and at the end."""
        room, end = self.room, time.monotonic() + 60 * self.given.minutes
        looks: list[tuple[float, int, int]] = []
        with Watchers(room, self.given.people) as pages:
            id = room.train(self.given.steps, "one")
            pages.watch(id)
            while time.monotonic() < end:
                room.errors += [words for words in room.order(chat=4) if isinstance(words, str)]
                room.wait([id])
                id = pages.run = room.train(self.given.steps, "one")
                server = psutil.Process(room.server.pid)
                looks.append((server.memory_info().rss / 1e6, server.num_fds(), server.num_threads()))
            room.wait([id])
        room.errors += pages.errors
        grown = [round(last - early, 1) for early, last in zip(looks[len(looks) // 3], looks[-1], strict=True)]
        return {"runs": len(looks), "polls": len(pages.seconds), "grown_mb_handles_threads": grown}

    def idle(self) -> Found:
        """No page open, no job: the web process, and what waits for a job."""
        server = psutil.Process(self.room.server.pid)
        time.sleep(IDLE)
        used = self.room.cpu()
        time.sleep(IDLE)
        kept = [f"{process.memory_full_info().uss / 1e6:.0f} MB" for process in server.children(recursive=True)]
        return {"web_cores": round((self.room.cpu() - used) / IDLE, 4), "children": kept}


def told(found: Found, name: str = "alone") -> Found:
    """Says at once what was found."""
    print(json.dumps({name: found}), file=sys.stderr, flush=True)
    return found


ROWS = ("idle", "watchers", "busy", "two", "browser", "chats", "people", "lesson", "soak")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS[:-1], help="rows; all but soak by default")
    parser.add_argument("--people", type=int, default=30, help="who train")
    parser.add_argument("--watchers", type=int, default=50, help="open pages")
    parser.add_argument("--chats", type=int, default=30, help="chats at once")
    parser.add_argument("--steps", type=int, default=60, help="of each run")
    parser.add_argument("--minutes", type=float, default=240.0, help="of soak")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="HOME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve), given.port)
        return 0
    found: Found = {"load_before": round(os.getloadavg()[0], 1)}
    errors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        single: Found = {}
        if {"watchers", "busy"} & set(given.only):
            with closing(Room(Path(folder) / "single", threads=1)) as room:
                room.one_run(4)
                id, seconds = room.one_run(given.steps)
                single, errors = room.result(id), errors + room.errors
                found["one_thread_alone"] = told({"seconds": seconds, "tokens_per_second": single["tokens_per_second"]})
        with closing(Room(Path(folder) / "home")) as room:
            room.one_run(4)  # imports and caches
            memory = psutil.Process(room.server.pid).memory_info().rss
            rows = Rows(room, given, single)
            found["all_cores_alone"] = told({"one_run": rows.one, "tokens_per_second": rows.alone["tokens_per_second"]})
            for name in given.only:
                found[name] = told(getattr(rows, name)() | {"errors": len(room.errors)}, name)
            grown = (psutil.Process(room.server.pid).memory_info().rss - memory) / 1e6
            errors += room.errors
    found |= {"web_memory_grown_mb": round(grown, 1), "errors": len(errors), "first_errors": errors[:3]}
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
