"""A run on another machine, without one: what travels, how it is laid down, and that it gives what it gives here."""

import os
import shutil
from pathlib import Path

import pytest

from lora_playground import __version__
from lora_playground.config import RunConfig
from lora_playground.errors import JobError
from lora_playground.jobs.remote_run import Changes, RemoteRun, lay, pack
from lora_playground.runs import Run, RunStore
from tests.jobs.support import new_run


def test_a_run_elsewhere_gives_the_same_and_comes_back_as_it_goes(place: Path, finished: Run) -> None:
    """Its dataset is an upload, which goes along."""
    here, sent = finished, new_run(place)
    remote = RemoteRun(pack(sent.folder), sent.folder.name, 1, __version__)
    known, replies, status = None, 0, None
    while status is None:
        changes = remote.changes(known)
        lay(changes, sent.folder)
        replies += bool(changes.files)
        known, status = changes.known, changes.status
    unpacked = remote._place
    remote.close()
    assert status == 0 and replies > 2 and not unpacked.exists()
    assert sent.progress().losses == pytest.approx(here.progress().losses, abs=1e-6)
    assert sent.result()["score"] == here.result()["score"]
    assert (sent.folder / "adapter" / "adapter_model.safetensors").read_bytes() == (
        here.folder / "adapter" / "adapter_model.safetensors"
    ).read_bytes()
    assert not list(sent.folder.rglob("*.part")) and not sent.checkpoints.exists()


def test_what_is_appended_travels_once_and_what_is_deleted_goes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "events.jsonl").write_bytes(b"one\n")
    (folder / "checkpoints" / "step-1" / "model").write_bytes(b"old")
    lay(Changes({"events.jsonl": (4, b"two\n"), "checkpoints/step-2/model": (0, b"new"),
                 "checkpoints/step-2/optimiser": (0, b"state"), "result.json": (0, b"{}")},
                ["checkpoints/step-1/model"]), folder)  # fmt: skip
    assert (folder / "events.jsonl").read_bytes() == b"one\ntwo\n"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"events.jsonl", "checkpoints/step-2/model", "checkpoints/step-2/optimiser", "result.json"}
    assert not (folder / "checkpoints" / "step-1").exists() and not list(folder.rglob("*.tmp"))


def test_a_checkpoint_that_goes_while_the_folder_is_read_is_no_failure(tmp_path: Path, monkeypatch) -> None:
    remote = object.__new__(RemoteRun)
    remote._run, remote._status, remote._unpacked = Run(tmp_path), None, {}
    one, other = tmp_path / "checkpoints" / "step-1", tmp_path / "checkpoints" / "step-2"
    for checkpoint in (one, other):
        checkpoint.mkdir(parents=True)
        (checkpoint / "model").write_bytes(b"x")
    scan = os.scandir

    def scandir(path):
        entries = scan(path)
        if path in (one, str(one)):
            shutil.rmtree(other, ignore_errors=True)
        elif path in (other, str(other)):
            shutil.rmtree(one, ignore_errors=True)
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(remote.changes(None).files) == 1


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "adapter/../../evil"])
def test_nothing_is_laid_outside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="no path inside"):
        lay(Changes({name: (0, b"x")}), tmp_path / "run")


def test_another_version_is_refused(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(RunConfig.parse({}))
    with pytest.raises(JobError, match=__version__):
        RemoteRun(pack(run.folder), run.folder.name, 1, "0.0.0")
