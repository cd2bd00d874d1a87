"""Runs jobs on a Ray cluster, by the same contract as on this machine. The only importer of Ray.

Each job is one actor with a core, or a GPU where the cluster has any, and dies with this server. Its run's folder
travels there and what it writes comes back (`jobs.remote_run`), so that no disk is shared. A machine that is lost ends
the job with MACHINE_LOST; what had come back of it stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from lora_playground import __version__
from lora_playground.config import RunConfig
from lora_playground.errors import JobError
from lora_playground.jobs.failures import MACHINE_LOST
from lora_playground.jobs.limits import ALONE, Limits
from lora_playground.jobs.placement import Place, Placement
from lora_playground.jobs.remote_run import Known, RemoteRun, lay, pack
from lora_playground.jobs.runner import Handle
from lora_playground.jobs.supervisor import Supervisor

log = logging.getLogger(__name__)

NAMESPACE = "lora-playground"
PAUSE = 0.4
"""Seconds between two questions for what is new."""
PATIENCE = 120.0
"""Seconds that an actor may take to answer before its machine counts as lost. Importing torch takes some of them."""


def connect(address: str) -> None:
    """Joins a running cluster. Raises JobError: Ray is not installed, or nothing answers there."""
    try:
        import ray
    except ImportError as error:
        raise JobError("Ray is not installed; install it: pip install -r requirements-ray.txt") from error
    if ray.is_initialized():
        return
    try:
        _check_token()
        _knock(address)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:
        raise JobError(
            f"No Ray cluster can be joined at {address} ({error}). Start one with `ray start --head`, give its address "
            "or 'auto', and the same RAY_AUTH_MODE and RAY_AUTH_TOKEN where it asks for them."
        ) from error


def _check_token() -> None:
    """Raises JobError where a token is asked for and there is none; Ray itself would end this process."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not place.is_file():
        raise JobError(f"RAY_AUTH_MODE is token, but RAY_AUTH_TOKEN is not set, and there is no file {place}")


def _knock(address: str) -> None:
    """Raises an error where nothing listens at 'host:port', or it refuses our token; Ray itself would try for minutes.

    Where all nodes are at 127.0.0.1, Ray is told to stay there too: it would look for them at this machine's address in
    the network, and listen at all of its addresses.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    from ray._private import ray_constants
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=10)
    except AuthenticationError:
        given = "another token" if os.environ.get("RAY_AUTH_MODE") == "token" else "no token"
        raise JobError(f"it asks for its token, and {given} was given") from None
    here = all(node.node_manager_address == "127.0.0.1" for node in nodes.values())
    vars(ray_constants)["ENABLE_RAY_CLUSTER"] = not here


def on_ray(home: Path, address: str, slots: int | None = None, limits: Limits = ALONE) -> Supervisor:
    """The queue of a home whose jobs run on a cluster. Raises JobError: as `connect` and `Supervisor`."""
    connect(address)
    return Supervisor(home, RayRunner(home), placement=RayPlacement(slots), limits=limits)


class RayPlacement(Placement):
    """Places of a cluster: as many jobs at once as it has GPUs, or cores where it has none.

    Args:
        slots: jobs at most; None for all that the cluster has room for.
    """

    def __init__(self, slots: int | None = None) -> None:
        self._most = slots

    @property
    def slots(self) -> int:  # type: ignore[override]
        """Jobs at once, by the machines that are in the cluster now."""
        import ray

        found = ray.cluster_resources()
        here = int(found.get("GPU", 0) or found.get("CPU", 0))
        return max(1, here if self._most is None else min(here, self._most))

    def find(self, config: RunConfig, taken: Collection[Place]) -> Place | None:
        """A place, which Ray chooses; None as long as all are taken."""
        return Place() if len(taken) < self.slots else None


class RayRunner:
    """A `jobs.runner.Runner` on the cluster that `connect` joined.

    Args:
        home: of the runs.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._jobs: dict[str, _Job] = {}

    def submit(self, folder: Path, attempt: int, gpu: str | None = None) -> Handle:
        import ray

        bundle, token = ray.put(pack(folder)), f"run-{secrets.token_hex(8)}"
        needs: dict[str, Any] = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        # One thread runs, the others answer questions meanwhile.
        actor = ray.remote(RemoteRun).options(name=token, max_concurrency=4, max_restarts=0, **needs)
        self._jobs[token] = _Job(actor.remote(bundle, folder.name, attempt, __version__), folder)
        return Handle(pid=0, started=time.time(), token=token)

    def poll(self, handle: Handle) -> int | None:
        job = self._jobs.get(handle.token)
        return job.status if job is not None else -signal.SIGKILL

    def cancel(self, handle: Handle, how: Literal["flag", "terminate", "kill"]) -> None:
        job = self._jobs.get(handle.token)
        if job is not None and job.status is None:
            job.press(how)

    def reap(self, handle: Handle) -> None:
        import ray

        if (job := self._jobs.pop(handle.token, None)) is not None:
            job.end()
            return
        with contextlib.suppress(ValueError):  # of a server that died: Ray has ended it, or does so now
            ray.kill(ray.get_actor(handle.token, namespace=NAMESPACE))

    def cpu_seconds(self, handle: Handle) -> float | None:
        job = self._jobs.get(handle.token)
        return job.cpu_seconds if job is not None else None

    def ready(self) -> bool:
        return True  # the cluster queues what has no place yet

    def prepare(self) -> None:
        """Nothing is kept ready: which machine a job gets is not known before."""

    def close(self) -> None:
        for job in list(self._jobs.values()):
            job.end()
        self._jobs = {}


class _Job:
    """One actor, and the thread that brings back what it writes.

    Attributes:
        status: the exit status, once all that was written is here. cpu_seconds: used so far, as last told.
    """

    def __init__(self, actor: Any, folder: Path) -> None:
        self._actor, self._folder = actor, folder
        self.status: int | None = None
        self.cpu_seconds: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._bring, name=f"ray {folder.name}", daemon=True)
        self._thread.start()

    def _bring(self) -> None:
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

        known: Known | None = None
        heard = time.monotonic()
        while self.status is None and not self._ended.is_set():
            try:
                # A cluster whose cores are taken lets an actor wait, so the first answer has no limit.
                changes = ray.get(self._actor.changes.remote(known), timeout=PATIENCE if known is not None else None)
                lay(changes, self._folder)
            except RayTaskError as error:
                self._say(error)
                self.status = 1
            except ActorUnavailableError as error:  # a connection broke; whether the machine is gone is known later
                if time.monotonic() - heard > PATIENCE:
                    self._say(error)
                    self.status = MACHINE_LOST
            except RayActorError as error:
                self._say(error)
                self.status = MACHINE_LOST
            except Exception as error:  # no answer in time, or no disk here
                self._say(error)
                self.status = MACHINE_LOST
            else:
                known, self.cpu_seconds, heard = changes.known, changes.cpu_seconds, time.monotonic()
                if changes.status is not None:
                    self.status = changes.status
            self._ended.wait(PAUSE)

    def _say(self, error: BaseException) -> None:
        with contextlib.suppress(OSError), open(self._folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}: {error}\n")

    def press(self, how: str) -> None:
        """'flag' asks it to stop after its step; the others end it."""
        import ray

        if how == "flag":
            self._actor.stop.remote()
        elif how == "kill":
            ray.kill(self._actor)
            self.status = -signal.SIGKILL

    def end(self) -> None:
        """Ends actor and thread; deletes what lies on its machine where that answers."""
        import ray

        self._ended.set()
        with contextlib.suppress(Exception):
            if self.status is not None and self.status not in (MACHINE_LOST, -signal.SIGKILL):
                ray.get(self._actor.close.remote(), timeout=5)
            ray.kill(self._actor)
        self._thread.join(2)
