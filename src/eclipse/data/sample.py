"""A sample of a training pipeline: where its images are, their pixels, and others put in their place."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eclipse.data.layouts.columns import IMAGE_NAMES
from eclipse.data.pixels import as_tensor
from eclipse.errors import EclipseError

KEYS = (*IMAGE_NAMES, "jpeg", "webp", "pixel_values")  # also those of shards and of transformers
_ROUNDING = 1e-3  # how far resizing or half precision may carry a pixel out of [0, 1]
_KINDS = "a tensor, an array or a PIL image, alone or in a sample (image, label) or {'image': image, ...}"


def called_with(given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """The sample that a transform was called with.

    Args:
        given: the sample, or its parts one by one, as torchvision's v2 calls its transforms.
        named: its parts by name instead, as Albumentations does it.
    """
    if bool(given) == bool(named):
        names = f" and the arguments {', '.join(named)}" if named else ""
        raise EclipseError(f"{len(given)} samples{names}; expected a sample, or its parts by name")
    return dict(named) if named else given[0] if len(given) == 1 else given


def images_of(sample: Any, key: str | None = None) -> tuple[Any, Callable[[Any], Any]]:
    """The image, batch or list of images of a sample, and a function that makes the same sample of others.

    Args:
        sample: images alone; a tuple or list that begins with them; or a mapping.
        key: of the images in a mapping; by default the usual name that there is.
    """
    if isinstance(sample, Mapping):
        name = _key(sample, key)
        return sample[name], lambda new: {**sample, name: new}
    if isinstance(sample, list) and sample and all(map(_is_single, sample)):
        return sample, lambda new: new
    if isinstance(sample, tuple | list) and sample and (_is_image(sample[0]) or isinstance(sample[0], list)):
        return sample[0], lambda new: _with_first(sample, new)
    return sample, lambda new: new


def _with_first(sample: Any, new: Any) -> Any:
    parts = (new, *sample[1:])
    return type(sample)(*parts) if hasattr(sample, "_fields") else type(sample)(parts)


def _is_single(value: Any) -> bool:
    """Whether it is one image in color or as a tensor: a list of these is no batch with its labels or masks."""
    return _is_image(value) and getattr(value, "ndim", 3) == 3


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, Tensor | np.ndarray) and value.ndim >= 2)


def _key(sample: Mapping[str, Any], wanted: str | None) -> str:
    names = KEYS if wanted is None else (wanted,)
    for name in names:
        if name in sample:
            return name
    raise EclipseError(
        f"a sample of {', '.join(map(str, sample)) or 'nothing'}; expected an image as {' or '.join(names)}: "
        "name it with image_key"
    )


def opened(image: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The pixels of an image or batch as a tensor, and a function that makes an image of the same kind of others.

    Args:
        image: a tensor (C, H, W) or (B, C, H, W), of any subclass; an array (H, W), (H, W, C) or (B, H, W, C); a PIL
            image, RGB or L.

    Returns:
        (C, H, W) or (B, C, H, W), C = 1 or 3, in the type of the image, uint8 or float in [0, 1].

    Raises:
        EclipseError: another kind, shape or type, or pixels out of range.
    """
    if isinstance(image, Tensor):
        kind = type(image)
        found = image if kind is Tensor else image.as_subclass(Tensor)
        back: Callable[[Tensor], Any] = (lambda x: x) if kind is Tensor else lambda x: x.as_subclass(kind)
    elif isinstance(image, Image.Image):
        if image.mode not in ("RGB", "L"):
            raise EclipseError(f"a PIL image of mode {image.mode}; expected RGB or L, so convert('RGB') it first")
        found, array_back = _of_array(np.array(image))
        back = lambda x: Image.fromarray(array_back(x))  # noqa: E731
    elif isinstance(image, np.ndarray):
        found, back = _of_array(image)
    else:
        raise EclipseError(f"images are a {type(image).__name__}; expected {_KINDS}")
    _check(found)
    return found, back


def _of_array(array: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Arrays have their channels last, as in Pillow, OpenCV and Albumentations."""
    if array.ndim not in (2, 3, 4) or (array.ndim > 2 and array.shape[-1] not in (1, 3)):
        raise EclipseError(
            f"an array of shape {array.shape}; expected (H, W), (H, W, C) or (B, H, W, C) with C = 3 or 1: "
            "use torch.from_numpy where the channels come first"
        )
    if array.ndim == 2:
        return as_tensor(array)[None], lambda x: x[0].numpy()
    return as_tensor(array).movedim(-1, -3), lambda x: x.movedim(-3, -1).contiguous().numpy()


def _check(x: Tensor) -> None:
    if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3):
        raise EclipseError(f"images of shape {tuple(x.shape)}; expected (B, C, H, W) or (C, H, W) with C = 3 or 1")
    if x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        raise EclipseError(f"images of type {x.dtype}; expected float in [0, 1] or uint8")
    if torch.compiler.is_compiling() or x.numel() == 0:  # a compiled graph would break at a look at the values
        return
    try:
        low, high = (v.item() for v in x.detach().aminmax())
    except RuntimeError:  # under torch.func.vmap values cannot be looked at
        return
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise EclipseError(
            f"pixels from {low:.3g} to {high:.3g}; expected float in [0, 1], so do this before normalizing"
        )
