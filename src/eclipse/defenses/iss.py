"""ISS: shortcuts squeezed out of images by grayscale or by JPEG."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar

import numpy as np
from PIL import Image

from eclipse.data.imageset import ImageSet
from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError
from eclipse.runs.state import Work


@dataclass(frozen=True)
class ISSG(Defense):
    """Grayscale (Liu, Zhao & Larson, "Image Shortcut Squeezing", ICML 2023).

    Each channel becomes the luma 0.299 R + 0.587 G + 0.114 B as Pillow rounds it. An image of one channel stays as it
    is. Left out: the option of the authors' code to do it to test images, and its ``--grayscale False``, which means
    True.
    """

    title: ClassVar[str] = "grayscale"
    acts: ClassVar[str] = "data"

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Turn every image gray; nothing is random, and the device is not used."""
        return _redraw(data, "ISS-G", lambda picture: picture.convert("L"))


@dataclass(frozen=True)
class ISSJ(Defense):
    """JPEG at a low quality (Liu, Zhao & Larson, "Image Shortcut Squeezing", ICML 2023).

    Each image is encoded and decoded once, before any crop, with Pillow's defaults: color at half the resolution
    (4:2:0). The authors' code does it again in each epoch, with equal results. Left out: its option to do it to test
    images, and the misspelled option to optimize the encoding, which changes no pixel.

    Attributes:
        quality: of the encoder, 1 to 100.
    """

    title: ClassVar[str] = "JPEG compression"
    acts: ClassVar[str] = "data"
    quality: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise EclipseError(f"JPEG quality {self.quality}; expected a whole number from 1 to 100, such as 10")

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Compress every image; nothing is random, and the device is not used."""
        return self.compressed(data)

    def compressed(self, data: ImageSet) -> ImageSet:
        """The same set, each image encoded and decoded."""
        return _redraw(data, "ISS-J", self._squeezed)

    def _squeezed(self, picture: Image.Image) -> Image.Image:
        encoded = BytesIO()
        picture.save(encoded, "JPEG", quality=self.quality)
        return Image.open(encoded, formats=["JPEG"])


def _redraw(data: ImageSet, defense: str, draw: Callable[[Image.Image], Image.Image]) -> ImageSet:
    """The same set with every image changed by Pillow; a gray result is copied to all channels."""
    channels = data.images.shape[1]
    if channels not in (1, 3):
        raise EclipseError(f"images of {channels} channels for {defense}; expected 3 (RGB) or 1 (gray): convert them")
    redrawn = np.empty_like(data.images)
    for image, out in zip(data.images, redrawn, strict=True):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
        out[:] = np.atleast_3d(np.asarray(draw(picture))).transpose(2, 0, 1)
    return data.with_images(redrawn)
