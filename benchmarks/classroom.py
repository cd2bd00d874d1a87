"""A class of many people: how soon their pages' questions are answered while all go through a lesson.

    python benchmarks/classroom.py [--people 30] [--seconds 45] [--json]

A server of its own; HTTP clients that do what the pages of people and teacher do: join, poll every 1.5 seconds, open
steps, predict, poll the teacher's grid. The clients run on this machine too. Prints `poll_p95` and `act_p95` in
seconds, `web_cores` (processor time of the server over the time) and `errors`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
LESSON, QUESTION, STEP = "what-a-rank-is", "score", 2
PERIOD = 1.5


class Browser:
    """One visitor's connection, with the cookie that the server gave it. Keeps how long each answer took."""

    def __init__(self, port: int) -> None:
        self.port, self.cookie = port, ""
        self.polls: list[float] = []
        self.acts: list[float] = []
        self.errors: list[str] = []

    def ask(self, path: str, body: dict[str, Any] | None = None, into: list[float] | None = None) -> Any:
        """GET, or POST with a body; returns the JSON, or None where that failed, which is noted."""
        began = time.perf_counter()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            headers = {"Cookie": self.cookie, "Content-Type": "application/json"}
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            if found := answer.getheader("set-cookie"):
                self.cookie = found.split(";")[0]
            connection.close()
        except OSError as error:
            self.errors.append(f"{path}: {error}")
            return None
        if into is not None:
            into.append(time.perf_counter() - began)
        if answer.status != 200:
            self.errors.append(f"{path}: {answer.status} {text[:120]!r}")
            return None
        return json.loads(text) if text.startswith(b"{") else None  # the pages themselves are HTML

    def attend(self, code: str, name: str, until: float, seed: int) -> None:
        """A person: joins, goes through steps, predicts, and polls as class.js does."""
        chance = random.Random(seed)
        self.ask("/join")
        self.ask("/class", {"do": "join", "code": code, "name": name})
        step, due = 0, time.monotonic() + chance.random() * PERIOD
        while time.monotonic() < until:
            time.sleep(max(0.0, due - time.monotonic()))
            due += PERIOD
            self.ask(f"/class/me?code={code}", into=self.polls)
            if chance.random() < 0.2 and step < STEP + 1:
                self.ask("/lesson", {"name": LESSON, "do": "view", "step": step}, self.acts)
                if step == STEP:
                    value = round(chance.random(), 2)
                    self.ask("/lesson", {"name": LESSON, "do": "answer", "ask": QUESTION, "value": value}, self.acts)
                step += 1

    def teach(self, code: str, until: float) -> None:
        """The teacher: polls the grid as class-page.js does."""
        while time.monotonic() < until:
            self.ask(f"/class/grid?code={code}", into=self.polls)
            time.sleep(PERIOD)


def quantile(values: list[float], share: float) -> float:
    """By rank; 0 where there is none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tempfile.mkdtemp(prefix="classroom-")
    server = subprocess.Popen(
        [sys.executable, "app.py", "--home", home, "--host", "127.0.0.1", "--port", str(port)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        told = measure(given, port, psutil.Process(server.pid))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    print(json.dumps(told) if given.json else told)


def measure(given: argparse.Namespace, port: int, server: psutil.Process) -> dict[str, Any]:
    """Opens a class, lets all attend, and counts."""
    teacher = Browser(port)
    while not teacher.cookie:  # until the server listens
        teacher.ask("/class")
        time.sleep(0.3)
    time.sleep(12)  # the workers that are kept ready import their libraries now
    teacher.errors.clear()
    code = teacher.ask("/class", {"do": "open", "lesson": LESSON})["code"]
    until, before = time.monotonic() + given.seconds, server.cpu_times()
    people = [Browser(port) for _ in range(given.people)]
    threads = [threading.Thread(target=teacher.teach, args=(code, until))]
    threads += [
        threading.Thread(target=one.attend, args=(code, f"Person {i}", until, i)) for i, one in enumerate(people)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after, everyone = server.cpu_times(), [teacher, *people]
    polls = [value for one in everyone for value in one.polls]
    acts = [value for one in everyone for value in one.acts]
    errors = [error for one in everyone for error in one.errors]
    for error in errors[:5]:
        print(error, file=sys.stderr)
    used = after.user + after.system - before.user - before.system
    return {
        "people": given.people, "polls": len(polls), "poll_p50": round(quantile(polls, 0.5), 4),
        "poll_p95": round(quantile(polls, 0.95), 4), "act_p95": round(quantile(acts, 0.95), 4),
        "web_cores": round(used / given.seconds, 3), "errors": len(errors),
    }  # fmt: skip


if __name__ == "__main__":
    main()
