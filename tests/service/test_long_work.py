"""Commands that take long, asked for by several programs."""

import asyncio
from pathlib import Path

from lora_playground.service import long_work
from lora_playground.service.long_work import LongWork


def test_two_requests_for_one_command_get_the_result_of_one_process(tmp_path: Path, monkeypatch) -> None:
    ran: list[list[str]] = []

    async def run(home: Path, arguments: list[str], limit: int) -> str:
        ran.append(arguments)
        await asyncio.sleep(0.01)
        return '{"score": 1}'

    async def ask() -> list[dict]:
        work = LongWork(tmp_path)
        return await asyncio.gather(*(work.result(["evaluate", "a"], who, 10.0) for who in ("ann", "ben")))

    monkeypatch.setattr(long_work, "run_command", run)
    assert asyncio.run(ask()) == [{"state": "done", "score": 1}] * 2
    assert ran == [["evaluate", "a", "--json"]]
