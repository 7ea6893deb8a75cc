"""Data sets in and out.

All that one of another package is made of is in ``kit.py``, and is imported from here when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eclipse.data.kit import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        return getattr(import_module("eclipse.data.kit"), name)
