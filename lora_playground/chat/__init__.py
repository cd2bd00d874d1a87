"""The process that answers questions, and its client.

The package can also be called, as the notebook's function `chat`: once anything has imported this package,
`from lora_playground import chat` returns it and not that function.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *given: Any, **settings: Any) -> Any:
        """See `lora_playground.notebook.chat`."""
        return importlib.import_module("lora_playground.notebook").chat(*given, **settings)


sys.modules[__name__].__class__ = _Package
