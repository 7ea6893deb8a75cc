"""Networks that are trained on poisoned or purified data, and the one loop that trains them.

All that one of another package is made of is in ``kit.py``, and is imported from here when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eclipse.classifiers.kit import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        return getattr(import_module("eclipse.classifiers.kit"), name)
