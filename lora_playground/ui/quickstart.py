"""Imports Gradio and builds a page faster, by leaving out work that only Gradio's own developers need.

When it is imported, Gradio writes a stub file for type checkers beside each of its components. When a page is built or
gets a queue, it makes a web application, of which only the last one, made by `launch`, is used. Together this takes
seconds until the server listens. If a version of Gradio works differently, nothing breaks; only that time is lost.
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
    """Imports Gradio. If it has been imported already, only the stub files of our own components are prevented."""
    if "gradio" in sys.modules:
        _write_no_stubs(sys.modules[_STUBS])
        return
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    finder = _WithoutStubs()
    sys.meta_path.insert(0, finder)
    collecting = gc.isenabled()
    # Imports make almost no garbage, so the garbage collector would only take time.
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
    """Within the block Gradio makes no web application of a page that is being built; `launch` makes the one in use."""
    from gradio.routes import App

    usual: Any = App.__dict__["create_app"]
    App.create_app = staticmethod(lambda *_, **__: None)  # type: ignore[assignment]
    try:
        yield
    finally:
        App.create_app = usual
