"""The method: Algorithm 1, the compensation, images in memory and data sets as streams."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eclipse.purification.algorithm import Purification as Purification
    from eclipse.purification.algorithm import absorb as absorb
    from eclipse.purification.algorithm import denoise as denoise
    from eclipse.purification.arrays import purify as purify
    from eclipse.purification.compensation import Compensate as Compensate

_HOMES = {
    "Compensate": "compensation",
    "Purification": "algorithm",
    "absorb": "algorithm",
    "denoise": "algorithm",
    "purify": "arrays",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eclipse.purification' has no attribute {name!r}")
    return getattr(import_module(f"eclipse.purification.{_HOMES[name]}"), name)
