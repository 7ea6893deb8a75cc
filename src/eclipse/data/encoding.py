"""The image files that new images become: PNG, WebP without loss, or JPEG."""

import io
import re
from dataclasses import dataclass

from PIL import Image, features

from eclipse.data.picture import Picture, encode_png, planes
from eclipse.errors import EclipseError

_LONGEST = {"webp": 16383, "jpeg": 65500}  # pixels a side: of WebP's header, of libjpeg
# A photograph takes WebP as long as our PNG with these; with Pillow's own, twenty times as long for a tenth less.
_WEBP_QUALITY, _WEBP_METHOD = 25, 0


@dataclass(frozen=True)
class Encoding:
    """A format of image files; the same pixels give the same bytes.

    Attributes:
        kind: ``png``, ``webp`` or ``jpeg``.
        quality: of JPEG, 1 to 100; None of formats without loss.
    """

    kind: str
    quality: int | None = None

    def __str__(self) -> str:
        return self.kind if self.quality is None else f"{self.kind}:{self.quality}"

    @property
    def suffix(self) -> str:
        """What names of such files end with."""
        return ".jpg" if self.kind == "jpeg" else f".{self.kind}"

    def check(self, name: str, height: int, width: int, has_alpha: bool) -> None:
        """Refuse an image that the format cannot hold."""
        if self.kind == "jpeg" and has_alpha:
            raise EclipseError(
                f"{name} has an alpha channel, which JPEG cannot hold; expected --image-format png or webp, or images "
                "without transparency"
            )
        longest = _LONGEST.get(self.kind)
        if longest is not None and max(height, width) > longest:
            raise EclipseError(
                f"{name} is {width}x{height}, and {self.kind} holds at most {longest:,} pixels a side; expected "
                "--image-format png, or smaller images (--max-side)"
            )

    def encode(self, picture: Picture, name: str) -> bytes:
        """The file of a picture. A gray one has one plane in PNG and JPEG; WebP has none but color.

        Raises:
            EclipseError: as ``check``.
        """
        if self.kind == "png":
            return encode_png(picture)
        height, width = picture.rgb.shape[1:]
        self.check(name, height, width, picture.alpha is not None)
        file = io.BytesIO()
        if self.kind == "jpeg":
            # Not at half the resolution of color, as is usual.
            _image(picture).save(file, "JPEG", quality=self.quality, subsampling=0)
        else:  # exact: colors stay where nothing of them is seen
            _image(picture).save(file, "WEBP", lossless=True, exact=True, quality=_WEBP_QUALITY, method=_WEBP_METHOD)
        return file.getvalue()


PNG = Encoding("png")
SUFFIXES = tuple(Encoding(kind).suffix for kind in ("png", "webp", "jpeg"))


def _image(picture: Picture) -> Image.Image:
    stored = planes(picture)
    return Image.fromarray(stored[0] if len(stored) == 1 else stored.transpose(1, 2, 0))


def encoding(text: str) -> Encoding:
    """The format that is asked for as ``png``, ``webp`` or ``jpeg:95``.

    Raises:
        EclipseError: for another text, or where this Pillow writes no WebP.
    """
    found = re.fullmatch(r"(png|webp)|jpeg:(100|[1-9][0-9]?)", text)
    if found is None:
        raise EclipseError(
            f"--image-format {text!r}; expected png, webp (smaller, without loss) or jpeg with a quality of 1 to 100, "
            "such as jpeg:95"
        )
    if text == "webp" and not features.check("webp"):
        raise EclipseError("--image-format webp, which this build of Pillow does not write; expected png or jpeg:95")
    return Encoding("jpeg", int(found[2])) if found[2] else Encoding(text)
