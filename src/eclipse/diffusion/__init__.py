"""The denoising tool: schedules, denoisers, training, samplers.

All that one of another package is made of is in ``kit.py``, and is imported from here when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eclipse.diffusion.kit import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        return getattr(import_module("eclipse.diffusion.kit"), name)
