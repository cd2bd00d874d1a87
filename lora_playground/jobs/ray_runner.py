"""Runs jobs on a Ray cluster, with the same interface as on this machine. The only importer of Ray.

Each job is one actor with a core, or a GPU if the cluster has any, and ends with this server. No disk is shared: the
run's folder is sent there, and what the job writes is copied back (`jobs.remote_run`). If a machine is lost, its jobs
end with MACHINE_LOST; what was copied back stays.
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
"""Seconds between two requests for what is new."""
PATIENCE = 120.0
"""Seconds that an actor may take to answer, which includes importing torch. After that its machine counts as lost."""


def connect(address: str) -> None:
    """Joins a running cluster. Raises JobError if Ray is not installed, or nothing answers at the address."""
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
    """Raises JobError if Ray's token authentication is on and there is no token, since Ray would end this process."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not place.is_file():
        raise JobError(f"RAY_AUTH_MODE is token, but RAY_AUTH_TOKEN is not set, and there is no file {place}")


def _knock(address: str) -> None:
    """Raises an error if nothing listens at 'host:port' or the token is refused, since Ray would try for minutes.

    If all nodes are at 127.0.0.1, Ray is told to use that address too. By default it would look for the nodes at this
    machine's network address, and listen on all addresses.
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
    """The queue of a home whose jobs run on a cluster. Raises JobError, see `connect` and `Supervisor`."""
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
        """How many jobs run at once on the cluster's present machines."""
        import ray

        found = ray.cluster_resources()
        here = int(found.get("GPU", 0) or found.get("CPU", 0))
        return max(1, here if self._most is None else min(here, self._most))

    def find(self, config: RunConfig, taken: Collection[Place]) -> Place | None:
        """A place, whose machine Ray chooses; None while all are taken."""
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
        # One thread trains, the others answer requests meanwhile.
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
        with contextlib.suppress(ValueError):  # an actor of a server that died, which Ray ends by itself
            ray.kill(ray.get_actor(handle.token, namespace=NAMESPACE))

    def cpu_seconds(self, handle: Handle) -> float | None:
        job = self._jobs.get(handle.token)
        return job.cpu_seconds if job is not None else None

    def ready(self) -> bool:
        return True  # the cluster queues actors until there is a place

    def prepare(self) -> None:
        """Does nothing, since the machine of the next job is not known."""

    def close(self) -> None:
        for job in list(self._jobs.values()):
            job.end()
        self._jobs = {}


class _Job:
    """One actor, and the thread that copies back what it writes.

    Attributes:
        status: the exit status, None until everything is copied back. cpu_seconds: last known processor time.
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
            except ActorUnavailableError as error:  # the connection broke; the machine may come back
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
        """'flag' requests a stop after the current step, 'kill' ends the actor, 'terminate' does nothing."""
        import ray

        if how == "flag":
            self._actor.stop.remote()
        elif how == "kill":
            ray.kill(self._actor)
            self.status = -signal.SIGKILL

    def end(self) -> None:
        """Ends actor and thread, and deletes the actor's files if its machine answers."""
        import ray

        self._ended.set()
        with contextlib.suppress(Exception):
            if self.status is not None and self.status not in (MACHINE_LOST, -signal.SIGKILL):
                ray.get(self._actor.close.remote(), timeout=5)
            ray.kill(self._actor)
        self._thread.join(2)
