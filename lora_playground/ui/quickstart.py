"""Imports Gradio and builds a page of it faster, by leaving out work that only Gradio's own developers need.

Gradio writes a stub file for type checkers beside each of its components whenever it is imported, and makes a web
application whenever a page is built or gets a queue, where only the one that `launch` makes ever answers. Together they
take seconds until the server listens. If a version of Gradio does otherwise, only that time is lost.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_STUBS = "gradio.component_meta"


class _WithoutStubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the module that writes the stub files, and replaces its function that writes them."""

    def __init__(self) -> None:
        self._usual: importlib.abc.Loader | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _STUBS:
            return None
        sys.meta_path.remove(self)
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is not None and found.loader is not None:
            self._usual, found.loader = found.loader, self
        return found

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        assert self._usual is not None
        return self._usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert self._usual is not None
        self._usual.exec_module(module)
        _write_no_stubs(module)


def _write_no_stubs(module: ModuleType) -> None:
    if hasattr(module, "create_or_modify_pyi"):
        vars(module)["create_or_modify_pyi"] = lambda *_: None


def import_gradio() -> None:
    """Imports Gradio. Where it is imported already, only stub files are kept from being written beside our inputs."""
    if "gradio" in sys.modules:
        _write_no_stubs(sys.modules[_STUBS])
        return
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    finder = _WithoutStubs()
    sys.meta_path.insert(0, finder)
    collecting = gc.isenabled()
    # An import makes almost no garbage, so the collector would only cost time.
    gc.disable()
    try:
        import gradio  # noqa: F401
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        if collecting:
            gc.enable()


@contextmanager
def unserved() -> Iterator[None]:
    """While a page is built, makes no web application of it: `launch` makes the one that answers."""
    from gradio.routes import App

    usual: Any = App.__dict__["create_app"]
    App.create_app = staticmethod(lambda *_, **__: None)  # type: ignore[assignment]
    try:
        yield
    finally:
        App.create_app = usual
