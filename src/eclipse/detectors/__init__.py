"""The table of detectors: each asks one question of a set that may be poisoned, and knows how sure its answer is.

What one is made of is imported when it is used: see ``kit.py``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eclipse.registry import Registry

if TYPE_CHECKING:
    from eclipse.detectors.kit import *  # noqa: F403
    from eclipse.detectors.kit import Detector
else:

    def __getattr__(name: str) -> Any:
        return getattr(import_module("eclipse.detectors.kit"), name)


DETECTORS: "Registry[type[Detector]]" = Registry(
    "detector",
    "eclipse.detectors",
    {
        "harm": "eclipse.detectors.harm:Harm",
        "harm-trusted": "eclipse.detectors.harm:HarmOnTrusted",
        "shortcut": "eclipse.detectors.shortcut:Shortcut",
        "residual": "eclipse.detectors.residual:Residual",
        "class-pattern": "eclipse.detectors.class_pattern:ClassPattern",
        "direction": "eclipse.detectors.direction:Direction",
        "rows": "eclipse.detectors.rows:PartOfTheRows",
        "two-sample": "eclipse.detectors.two_sample:TwoSample",
    },
    contract="eclipse.detectors.detector:Detector",
)
