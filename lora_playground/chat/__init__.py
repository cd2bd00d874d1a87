"""The process that answers, and its client. The package can be called: that is the notebook's function `chat`.

`from lora_playground import chat` gives the package, whether somebody has imported it before or not; so it is both.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *given: Any, **settings: Any) -> Any:
        """As `lora_playground.notebook.chat`."""
        return importlib.import_module("lora_playground.notebook").chat(*given, **settings)


sys.modules[__name__].__class__ = _Package
