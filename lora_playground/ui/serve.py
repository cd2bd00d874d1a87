"""Builds the app for one home folder (page, queue and chat process), launches its web server, and closes all of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lora_playground.chat.client import ChatClient
from lora_playground.jobs.limits import ALONE, Limits
from lora_playground.jobs.ray_runner import on_ray
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.runs import default_home
from lora_playground.service.operations import Operations
from lora_playground.sweeps import SweepScheduler
from lora_playground.ui import api, theme
from lora_playground.ui.access import Access, ProgramsMiddleware
from lora_playground.ui.frame import Frame
from lora_playground.ui.identity import Identity, VisitorMiddleware
from lora_playground.ui.mcp import require, served
from lora_playground.ui.quickstart import unserved

MAX_UPLOAD = "20mb"
UNREADY = 10.0
"""Seconds after the start in which no worker is prepared unless a page is opened."""

QUEUE_PAUSE = 0.05
"""Seconds between two looks of Gradio's idle queue for events. Gradio's default of 0.001 uses some per cent of a
core."""


class Server:
    """One app on one home folder.

    Args:
        home: folder of runs and uploads; None takes LORA_PLAYGROUND_HOME or ~/.lora-playground.
        slots: how many runs train at once; None leaves it to `jobs.placement`.
        ray: address of a Ray cluster on which runs train, or "auto"; None for this machine.
        limits: of each person.

    Raises:
        JobError: another server uses this home, or it cannot be written.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        slots: int | None = None,
        limits: Limits = ALONE,
        ray: str | None = None,
    ) -> None:
        self.home = Path(home).expanduser() if home else default_home()
        self.supervisor = (
            on_ray(self.home, ray, slots, limits) if ray else Supervisor(self.home, slots=slots, limits=limits)
        )
        self.chat = ChatClient(self.home)
        try:
            self.identity = Identity(self.home)
            self.sweeps = SweepScheduler(self.supervisor)
            parts = {
                "home": self.home,
                "store": self.supervisor.runs,
                "supervisor": self.supervisor,
                "sweeps": self.sweeps,
            }
            with unserved():
                self._frame = Frame(parts, self.chat, self.identity)
                self.page: gr.Blocks = self._frame.build()
                self._access = Access(self.identity)
                api.register(self.page, Operations(self.supervisor, self.chat, self.sweeps), self._access)
                self.page.queue(max_size=300, default_concurrency_limit=None)
        except BaseException:
            self.chat.close()
            self.supervisor.close()
            raise

    def launch(self, host: str | None = None, port: int | None = None, mcp: bool = False, **more: Any) -> Any:
        """Starts the web server and the queue; returns at once. Arguments not given come from the environment.

        Args:
            mcp: whether the endpoints are MCP tools too.
            more: further arguments of Gradio's `launch`, such as root_path.

        Raises:
            ConfigError: `mcp` is set, and the package for it is missing.
        """
        if mcp:
            require()
        with served() if mcp else nullcontext():
            started = self._launch(host, port, mcp_server=mcp, **more)
        events: Any = self.page._queue
        events.sleep_when_free = events.progress_update_sleep_when_free = QUEUE_PAUSE
        # Preparing a worker imports torch, which would slow down the first page, so it waits until a page is open (see
        # `feed`), or until these seconds have passed.
        self.supervisor.start(unready=UNREADY)
        self.sweeps.start()
        return started

    def _launch(self, host: str | None, port: int | None, **more: Any) -> Any:
        return self.page.launch(
            server_name=host,
            server_port=port,
            theme=theme.theme(),
            head=theme.head(),
            max_threads=400,
            max_file_size=MAX_UPLOAD,
            strict_cors=True,
            ssr_mode=False,
            show_error=False,
            run_history=False,
            footer_links=["api"],
            enable_monitoring=False,
            prevent_thread_lock=True,
            blocked_paths=[str(self.home / "visitors.secret"), str(self.home / "jobs.db")],
            app_kwargs={
                "middleware": [
                    Middleware(VisitorMiddleware, identity=self.identity),
                    Middleware(ProgramsMiddleware, access=self._access),
                ],
                "routes": self._frame.routes(),
            },
            **more,
        )

    @property
    def port(self) -> int:
        """The port on which it listens; only after `launch`."""
        return int(self.page.server_port or 0)

    def wait(self) -> None:
        """Waits until the process is interrupted, then closes the server."""
        try:
            self.page.block_thread()
        finally:
            self.close()

    def close(self) -> None:
        """Closes server and queue. Running jobs become interrupted and can be resumed."""
        self.page.close(verbose=False)
        self.chat.close()
        self.sweeps.close()
        self.supervisor.close()
