"""ECLIPSE: purify image training sets that may be poisoned (Wang et al., ESORICS 2024).

Public names are imported when they are first used, so that ``import eclipse`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eclipse.data.imageset import ImageSet as ImageSet
    from eclipse.data.source import open_source as open_source
    from eclipse.detectors.audit import Audit as Audit
    from eclipse.detectors.audit import audit as audit
    from eclipse.diffusion.checkpoint import load_denoiser as load_denoiser
    from eclipse.diffusion.checkpoint import save_denoiser as save_denoiser
    from eclipse.diffusion.denoiser import Denoiser as Denoiser
    from eclipse.diffusion.schedule import NoiseSchedule as NoiseSchedule
    from eclipse.diffusion.trusted import train_denoiser as train_denoiser
    from eclipse.errors import EclipseError as EclipseError
    from eclipse.purification.arrays import Purifier as Purifier
    from eclipse.purification.arrays import purify as purify
    from eclipse.purification.compensation import Compensate as Compensate
    from eclipse.transforms.purify import Purify as Purify

__version__ = "0.1.0"

_HOMES = {
    "Audit": "eclipse.detectors.audit",
    "audit": "eclipse.detectors.audit",
    "Compensate": "eclipse.purification.compensation",
    "Denoiser": "eclipse.diffusion.denoiser",
    "EclipseError": "eclipse.errors",
    "ImageSet": "eclipse.data.imageset",
    "NoiseSchedule": "eclipse.diffusion.schedule",
    "Purifier": "eclipse.purification.arrays",
    "Purify": "eclipse.transforms.purify",
    "load_denoiser": "eclipse.diffusion.checkpoint",
    "open_source": "eclipse.data.source",
    "purify": "eclipse.purification.arrays",
    "save_denoiser": "eclipse.diffusion.checkpoint",
    "train_denoiser": "eclipse.diffusion.trusted",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # over the submodule of the same name, which importing it has bound here
        return value
    raise AttributeError(f"module 'eclipse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
