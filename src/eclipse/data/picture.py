"""One image: from encoded bytes or a raw array to pixels, and back to a PNG without loss."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from eclipse.data.pixels import gray, to_color
from eclipse.errors import EclipseError

Pixels = NDArray[np.uint8]
Kind = TypeVar("Kind", bound=np.generic)

MAX_PIXELS = 2**26  # 8192 x 8192; larger ones are decompression bombs or belong cut into pieces
MAX_BYTES = 2**28  # of one encoded image
_SLAB_PIXELS = 2**20  # of a large image, worked on at a time

# Only formats that hold 8-bit still images and whose decoders run no other program (EPS runs Ghostscript).
_HAS_AVIF = "avif" in features.modules and features.check("avif")  # a matter of Pillow's version and how it was built
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *(("AVIF",) if _HAS_AVIF else ()))
_READABLE = f"PNG, JPEG, WebP, {'AVIF, ' if _HAS_AVIF else ''}BMP, GIF, TIFF and PPM"
_PNG = b"\x89PNG\r\n\x1a\n"
_DEEP_AVIF = re.compile(
    rb"av1C\x81.[\x40-\x7f\xc0-\xff]", re.DOTALL
)  # the bit "high bit depth" of the codec's settings
_GRAY_MODES = ("1", "L", "LA", "La")
_COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

HEAD_BYTES = 64  # of a file, enough to tell an image
# The beginnings of the formats above, and of others that people call images: these are refused by name. What begins so
# by chance is text of three letters at most, hence the look at what follows "BM" and "P6".
_BEGINNING = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]"
    rb"|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-6Ff]\s+(?:#|\d+\s+\d+\s)|P7\nWIDTH"
    rb"|.{4}ftyp(?:avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1|crx )|\0\0\0\x0c(?:jP  |JXL )\r\n\x87\n|\xff\x4f\xff\x51"
    rb"|8BPS\0[\x01\x02]|qoif.{8}[\x03\x04][\0\x01]|v/1\x01|DDS \x7c\0\0\0|#\?RADIANCE|farbfeld"
    rb"|\0\0\x01\0[\x01-\x40]\0..[\0-\xff]\0[\0\x01]\0[\x01\x04\x08\x18\x20]\0",
    re.DOTALL,
)

# decode() refuses large images itself, below the size at which Pillow would warn on standard error first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image.

    Attributes:
        rgb: uint8, (3, H, W).
        alpha: uint8, (H, W), or None; nothing in this project changes it.
        gray: the image was stored with one gray plane, of which ``rgb`` holds three copies.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    gray: bool = False


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode one image as it is to be looked at: EXIF orientation is applied to the pixels.

    Palettes and CMYK become RGB, transparency becomes alpha. Color profiles are ignored, as training code does, and so
    are metadata that are damaged or huge.

    Raises:
        EclipseError: names the image when it is no image, truncated, larger than ``max_pixels``, animated, or of more
            than 8 bits a channel or other bands than colors and alpha (which would silently be lost).
    """
    if not data:
        raise EclipseError(f"{name} holds no bytes; expected an encoded image")
    if len(data) > MAX_BYTES:
        raise EclipseError(f"{name} has more than {MAX_BYTES >> 20} MiB; expected an image that fits into memory")
    try:
        try:
            return _decoded(data, name, max_pixels)
        except EclipseError:
            raise
        except Exception:  # as below; the pixels may be whole where metadata are not
            bare = _without_metadata(data)
            if bare is None:
                raise
            return _decoded(bare, name, max_pixels)
    except EclipseError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise EclipseError(_too_large(name, "huge", max_pixels)) from None
    except UnidentifiedImageError:
        raise EclipseError(f"{name} is not an image that can be read; expected one of {_READABLE}") from None
    except Exception as error:  # on damaged files Pillow's decoders raise almost anything
        raise EclipseError(
            f"{name} is a damaged or truncated image ({error}); expected a complete one: replace it or leave it out"
        ) from error


def form_of(data: bytes | Pixels) -> tuple[tuple[int, int], bool] | None:
    """(height, width) of an image and whether it has alpha, by its header alone; None where decoding will fail."""
    if not isinstance(data, bytes):
        picture = from_array(data, "an image")
        return picture.rgb.shape[1:], picture.alpha is not None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            size = (image.width, image.height) if _orientation(image) in _SIDEWAYS else (image.height, image.width)
            return size, image.has_transparency_data
    except Exception:  # as in ``decode``
        return None


def _decoded(data: bytes, name: str, max_pixels: int) -> Picture:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _refuse_unfit(image, data, name, max_pixels)
        image.load()
        if image.format == "PNG" and "transparency" in image.info:
            _scale_transparency(image, data[24])
        return from_array(_turned(_planes_of(image), _orientation(image)), "the decoded image")


def _without_metadata(data: bytes) -> bytes | None:
    """A PNG without the chunks that say nothing of its pixels, where it has any."""
    if not data.startswith(_PNG):
        return None
    kept, place = [_PNG], len(_PNG)
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        kind, end = data[place + 4 : place + 8], place + 12 + size
        if kind[:1].isupper() or kind in (b"tRNS", b"acTL"):  # critical, transparency, animation
            kept.append(data[place:end])
        place = end
    bare = b"".join(kept)
    return bare if len(bare) < len(data) else None


def _scale_transparency(image: Image.Image, depth: int) -> None:
    """Scale the transparent gray of a PNG of ``depth`` bits as its pixels are; of all values the low bits count."""
    key, most = image.info["transparency"], (1 << depth) - 1
    if image.mode in ("1", "L") and isinstance(key, int):
        image.info["transparency"] = (key & most) * (255 // most)
    elif image.mode == "RGB" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value & most for value in key)


_SIDEWAYS = (5, 6, 7, 8)


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; ``ImageOps.exif_transpose`` writes the other metadata anew, and fails with them."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data; Pillow raises almost anything
        return 1


def _turned(planes: Pixels, orientation: Any) -> Pixels:
    """Apply an EXIF orientation to (C, H, W): 1 to 8, whatever else is as good as 1."""
    if orientation in _SIDEWAYS:
        planes = planes.transpose(0, 2, 1)
    if orientation in (3, 4, 7, 8):
        planes = planes[:, ::-1]
    if orientation in (2, 3, 6, 7):
        planes = planes[:, :, ::-1]
    return np.ascontiguousarray(planes)


def begins_as_image(head: bytes) -> bool:
    """Whether a file that begins with these ``HEAD_BYTES`` is an image, of a format that can be read or not."""
    return _BEGINNING.match(head) is not None


def from_array(array: Pixels, name: str) -> Picture:
    """Wrap raw pixels of shape (H, W) or (C, H, W) with 1 (gray), 2 (gray, alpha), 3 or 4 planes."""
    planes = array[None] if array.ndim == 2 else array
    if planes.dtype != np.uint8 or planes.ndim != 3 or planes.shape[0] not in (1, 2, 3, 4) or 0 in planes.shape:
        raise EclipseError(f"{name} is {array.dtype} of shape {array.shape}; expected uint8 (H, W) or (1..4, H, W)")
    gray = len(planes) < 3
    color = np.repeat(planes[:1], 3, axis=0) if gray else planes[:3]
    alpha = planes[-1] if len(planes) in (2, 4) else None
    return Picture(np.ascontiguousarray(color), alpha, gray)


def size_in_words(pixels: NDArray[Any]) -> str:
    """Width and height of an array whose last axes are rows and columns."""
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"


def repainted(picture: Picture, rgb: Pixels) -> Picture:
    """The picture with other pixels (3, H, W); one that was gray stays so."""
    if picture.gray:
        rgb = to_color(gray(rgb))
    return replace(picture, rgb=rgb)


def resized(picture: Picture, side: int) -> Picture:
    """The square in the middle of a picture, of ``side`` pixels: bicubic, with Pillow's antialiasing."""
    if picture.rgb.shape[1:] == (side, side):
        return picture

    return _each_plane(picture, lambda plane: ImageOps.fit(plane, (side, side), Image.Resampling.BICUBIC))


def limited(picture: Picture, longest: int) -> Picture:
    """A picture whose longer side is at most ``longest`` pixels: reduced like ``resized``, in its own proportions."""
    height, width = limited_size(picture.rgb.shape[1:], longest)
    if picture.rgb.shape[1:] == (height, width):
        return picture

    return _each_plane(picture, lambda plane: plane.resize((width, height), Image.Resampling.BICUBIC))


def _each_plane(picture: Picture, change: Callable[[Image.Image], Image.Image]) -> Picture:
    """The picture with every plane changed for itself, that of transparency, too."""

    def changed(plane: Pixels) -> Pixels:
        return np.asarray(change(Image.fromarray(plane)))

    rgb = np.stack([changed(plane) for plane in picture.rgb])
    return replace(picture, rgb=rgb, alpha=None if picture.alpha is None else changed(picture.alpha))


def limited_size(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """(height, width) of an image of that height and width after ``limited``."""
    height, width = size
    scale = min(1.0, longest / max(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def middle(image: NDArray[Kind], side: int) -> NDArray[Kind]:
    """The square of ``side`` pixels in the middle of (C, H, W), or as much as there is; it keeps no more in memory."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[1:])
    return np.ascontiguousarray(image[:, top : top + side, left : left + side])


def planes(picture: Picture) -> Pixels:
    """Return the planes that are stored, (1..4, H, W): one or three of color, then alpha where there is one."""
    color = gray(picture.rgb) if picture.gray else picture.rgb
    return color if picture.alpha is None else np.concatenate((color, picture.alpha[None]))


def encode_png(picture: Picture) -> bytes:
    """Encode as 8-bit PNG with 1 to 4 channels; the same pixels give the same bytes.

    Written here because Pillow spends more time around a small image than in it: about half its time at 32x32.
    """
    stored = planes(picture)
    channels, height, width = stored.shape
    color_type = (0, 4, 2, 6)[channels - 1]
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    file = io.BytesIO()  # of which getvalue makes no copy
    file.write(_PNG + _chunk(b"IHDR", header))
    start, crc = file.tell(), zlib.crc32(b"IDAT")
    file.write(bytes(4) + b"IDAT")
    for part in _deflated(stored):
        file.write(part)
        crc = zlib.crc32(part, crc)
    size = file.tell() - start - 8
    file.write(struct.pack(">I", crc) + _chunk(b"IEND", b""))
    file.seek(start)
    file.write(struct.pack(">I", size))
    return file.getvalue()


def _deflated(stored: Pixels) -> Iterator[bytes]:
    compressor = zlib.compressobj(1)
    for rows in _slabs(*stored.shape[1:]):
        yield compressor.compress(_filtered(stored[:, rows]).data)
    yield compressor.flush()


def _filtered(stored: Pixels) -> Pixels:
    """The lines of a PNG, each with its filter: "Sub", each byte minus the one of the pixel to its left."""
    channels, height, width = stored.shape
    lines = stored.transpose(1, 2, 0).reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1:] = lines
    filtered[:, 1 + channels :] -= lines[:, :-channels]
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _slabs(height: int, width: int) -> Iterator[slice]:
    """Cut the rows of an image, so that what is made of a large one on the way is small."""
    rows = max(1, _SLAB_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _refuse_unfit(image: Image.Image, data: bytes, name: str, max_pixels: int) -> None:
    """Raise for what the header already tells, before any pixel is decoded."""
    if image.width * image.height > max_pixels:
        raise EclipseError(_too_large(name, f"{image.width}x{image.height} pixels large", max_pixels))
    if image.mode in _DEEP_MODES or _is_deep(image, data):
        raise EclipseError(
            f"{name} has more than 8 bits a channel; expected 8: convert it (to an 8-bit PNG, say) or leave it out"
        )
    if image.mode not in _GRAY_MODES + _COLOR_MODES:
        raise EclipseError(
            f"{name} has color mode {image.mode}; expected gray, RGB or CMYK: convert it or leave it out"
        )
    if image.format == "TIFF" and not _is_complete(image):
        raise EclipseError(
            f"{name} has other bands than its colors and an alpha channel, or signed values; expected gray, RGB or "
            "CMYK: save the others apart or leave it out"
        )
    # An MPO is a photograph with previews, as many phones write them: its first frame is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise EclipseError(
            f"{name} is animated or has several pages; expected a single image: extract its frames or leave it out"
        )


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow would scale more than 8 bits a channel down to 8 without a word."""
    if image.format == "PNG":
        return data[24] > 8  # the bit depth in the IHDR chunk
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(258, (1,))) > 8)  # type: ignore[attr-defined]  # BitsPerSample
    if image.format == "PPM":
        return any(tile.codec_name.startswith("ppm") and tile.args[1] > 255 for tile in image.tile)  # type: ignore[attr-defined]
    return image.format == "AVIF" and _DEEP_AVIF.search(data) is not None


def _is_complete(image: Image.Image) -> bool:
    """Whether Pillow reads all bands of a TIFF, and takes none for alpha that is something else."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bands, extra, signs = tags.get(277, 1), tags.get(338, ()), tags.get(339, (1,))
    return bands == len(image.getbands()) and 0 not in extra and all(sign in (1, 4) for sign in signs)


def _too_large(name: str, size: str, max_pixels: int) -> str:
    return f"{name} is {size}, as decompression bombs are; expected at most {max_pixels:,} pixels: shrink or omit it"


def _planes_of(image: Image.Image) -> Pixels:
    """The pixels, (1..4, H, W)."""
    mode = ("L" if image.mode in _GRAY_MODES else "RGB") + ("A" if image.has_transparency_data else "")
    planes = np.empty((len(mode), image.height, image.width), np.uint8)
    for rows in _slabs(image.height, image.width):
        whole = rows == slice(0, image.height)
        part = image if whole else image.crop((0, rows.start, image.width, rows.stop))
        array = np.asarray(part if part.mode == mode else part.convert(mode))
        planes[:, rows] = array if array.ndim == 2 else array.transpose(2, 0, 1)
    return planes
