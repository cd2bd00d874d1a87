"""Child processes: what they inherit, what limits them, how they are found and ended."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from lora_playground.machine import processes

GIVEN = {
    "OPENAI_API_KEY": "2", "AWS_SECRET_ACCESS_KEY": "3", "DB_PASSWORD": "4", "SSH_AUTH_SOCK": "5", "GITHUB_TOKEN": "6",
    "HF_TOKEN": "hf_abc", "HUGGING_FACE_HUB_TOKEN": "hf_old",
    "PATH": "/bin", "HF_HOME": "/cache", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "2",
}  # fmt: skip
PLAIN = {"PATH", "HF_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
HUB = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}


def child(code: str, **options) -> str:
    """What a child prints."""
    command = [sys.executable, "-c", f"input()\n{code}"]  # it waits until its limits are set
    process = processes.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    return process.communicate(b"\n", timeout=60)[0].decode()


@pytest.mark.parametrize("hub_login", [True, False])
def test_no_secret_but_the_hubs_token_is_inherited(hub_login: bool) -> None:
    kept = processes.clean_environment(GIVEN, hub_login)
    assert set(GIVEN) & set(kept) == (PLAIN | HUB if hub_login else PLAIN)


def test_a_child_has_the_clean_environment_a_group_and_no_core_dumps(monkeypatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "1")
    code = (
        "import json, os, resource, lora_playground\n"
        "print(json.dumps([dict(os.environ), os.getpid() == os.getpgrp(), resource.getrlimit(resource.RLIMIT_CORE)]))"
    )
    environment, leads, core = json.loads(child(code, environment={"MARK": "this"}))
    assert "SOME_PASSWORD" not in environment and environment["MARK"] == "this"
    assert leads and core == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
def test_a_child_gets_no_more_memory_than_allowed() -> None:
    code = "try: bytearray(2 * 10**9)\nexcept MemoryError: print('refused')\nelse: print('given')"
    assert child(code).strip() == "given"
    assert child(code, limits=processes.Limits(memory=10**9)).strip() == "refused"


def test_a_command_is_run_to_its_end_or_killed_with_what_it_started() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert asyncio.run(processes.run([sys.executable, "-c", code], 60)) == (3, "out\n", "err\n")
    child = "import subprocess; subprocess.run(['sleep', '61.7'])"
    with pytest.raises(TimeoutError):
        asyncio.run(processes.run([sys.executable, "-c", child], 2))
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "sleep 61.7" not in listed.splitlines()


def test_a_process_is_told_from_a_later_one_and_found_by_its_environment() -> None:
    process = processes.start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, environment={"MARK": "me"})
    try:
        began = processes.started_at(process.pid)
        assert began > 0 and abs(processes.started_at(process.pid) - began) < 2
        assert processes.carrying("MARK", "me") == [process.pid] and processes.carrying("MARK", "m") == []
        assert processes.cpu_seconds(process.pid) is not None
    finally:
        processes.signal_group(process.pid, signal.SIGKILL)
        process.wait()
    assert processes.started_at(process.pid) == 0 and processes.carrying("MARK", "me") == []
    processes.signal_group(process.pid, signal.SIGKILL)
