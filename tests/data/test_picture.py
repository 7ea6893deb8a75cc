"""One image: every mode that people have, in and out without loss, and what is refused."""

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from eclipse.data import picture as pictures
from eclipse.data.picture import Picture, Pixels, decode, encode_png, from_array, limited, limited_size, planes, resized
from eclipse.errors import EclipseError


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels(rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def deep_png(color_type: int) -> bytes:
    """A 2x2 PNG of 16 bits a channel."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, color_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(2 * (1 + 2 * channels * 2)))),
        (b"IEND", b""),
    )
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 3, 1, 1), (32, 32), (1, 5, 7), (2, 5, 7), (3, 5, 7), (4, 1, 9), (3, 300, 1)]
)
def test_png_keeps_every_pixel_alpha_and_the_number_of_channels(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    array = rng.integers(0, 256, shape[-3:], dtype=np.uint8)
    picture = from_array(array, "x")
    png = encode_png(picture)
    again = decode(png, "x")
    stored = array[None] if array.ndim == 2 else array
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == ("L", "LA", "RGB", "RGBA")[len(stored) - 1]
    assert np.array_equal(again.rgb, np.broadcast_to(stored[:1], again.rgb.shape) if len(stored) < 3 else stored[:3])
    assert again.gray == (len(stored) < 3)
    if len(stored) in (2, 4):
        assert again.alpha is not None and np.array_equal(again.alpha, stored[-1])
    else:
        assert again.alpha is None
    assert encode_png(again) == png


def test_gray_is_stored_as_the_rounded_mean_of_planes() -> None:
    rgb = np.array([10, 11, 11], np.uint8).reshape(3, 1, 1)
    assert decode(encode_png(Picture(rgb, gray=True)), "x").rgb.ravel().tolist() == [11, 11, 11]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grayscale_files_are_gray(mode: str, pixels: Pixels) -> None:
    image = Image.fromarray(pixels).convert(mode)
    picture = decode(saved(image, "PNG"), "x")
    assert picture.gray and picture.alpha is None
    assert np.array_equal(picture.rgb[1], np.asarray(image.convert("L")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_kept_apart_from_the_colors(mode: str, pixels: Pixels) -> None:
    image = Image.fromarray(pixels).convert(mode)
    alpha = Image.fromarray(pixels[..., 0])
    image.putalpha(alpha)
    picture = decode(saved(image, "PNG"), "x")
    assert picture.alpha is not None and np.array_equal(picture.alpha, pixels[..., 0])
    assert picture.gray == (mode == "LA")
    assert np.array_equal(picture.rgb[2], np.asarray(image)[..., 0 if mode == "LA" else 2])


def test_palette_becomes_rgb_and_its_transparency_alpha(pixels: Pixels) -> None:
    image = Image.fromarray(pixels).quantize(8)
    plain = decode(saved(image, "PNG"), "x")
    assert plain.alpha is None and not plain.gray
    assert np.array_equal(plain.rgb, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    transparent = decode(saved(image, "PNG", transparency=2), "x")
    assert transparent.alpha is not None
    assert np.array_equal(transparent.alpha == 0, np.asarray(image) == 2)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_color_becomes_alpha(mode: str, pixels: Pixels) -> None:
    image = Image.fromarray(pixels).convert(mode)
    key = tuple(int(v) for v in pixels[2, 3]) if mode == "RGB" else (0 if mode == "1" else int(np.asarray(image)[2, 3]))
    picture = decode(saved(image, "PNG", transparency=key), "x")
    assert picture.alpha is not None and 0 in picture.alpha and 255 in picture.alpha


def test_cmyk_becomes_rgb(pixels: Pixels) -> None:
    picture = decode(saved(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "TIFF"), "x")
    assert picture.rgb[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(saved(Image.fromarray(pixels).convert("CMYK"), "JPEG"), "x").rgb.shape == (3, 5, 7)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_orientation_turns_the_pixels(format: str, orientation: int, turns: int, pixels: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(Image.fromarray(pixels), format, exif=exif, **options)
    assert np.array_equal(decode(data, "x").rgb.transpose(1, 2, 0), np.rot90(pixels, turns))


@pytest.mark.parametrize("format", ["BMP", "GIF", "PPM", "TIFF", "JPEG", "WEBP", "MPO"])
def test_common_formats_are_read(format: str, pixels: Pixels) -> None:
    second = {"save_all": True, "append_images": [Image.fromarray(pixels)]} if format == "MPO" else {}
    assert decode(saved(Image.fromarray(pixels), format, **second), "x").rgb.shape == (3, 5, 7)


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(deep_png(kind), id=f"png-{kind}") for kind in (0, 2, 4, 6)),
        pytest.param(saved(Image.new("I;16", (2, 2)), "TIFF"), id="tiff-gray"),
        pytest.param(saved(Image.new("F", (2, 2)), "TIFF"), id="tiff-float"),
        pytest.param(b"P6\n2 2\n65535\n" + bytes(24), id="ppm"),
        pytest.param(b"P3\n1 1\n65535\n1 2 3\n", id="ppm-text"),
    ],
)
def test_more_than_8_bits_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(EclipseError, match=r"scan\.png has more than 8 bits a channel"):
        decode(data, "scan.png")


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_frames_are_refused_by_name(format: str, pixels: Pixels) -> None:
    first, second = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    data = saved(first, format, save_all=True, append_images=[second])
    with pytest.raises(EclipseError, match="dance is animated or has several pages"):
        decode(data, "dance")


def test_other_color_spaces_are_refused_by_name() -> None:
    with pytest.raises(EclipseError, match="x has color mode LAB"):
        decode(saved(Image.new("LAB", (3, 3)), "TIFF"), "x")


@pytest.mark.parametrize("side", [9_000, 12_000, 40_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    # Only the header claims the size: were it decoded, the message would be about missing data.
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with warnings.catch_warnings(record=True), pytest.raises(EclipseError, match=r"b\.png is .* decompression bombs"):
        decode(data, "b.png")


def test_the_limit_of_pixels_is_an_argument(pixels: Pixels) -> None:
    data = saved(Image.fromarray(pixels), "PNG")
    assert decode(data, "x", max_pixels=35).rgb.shape == (3, 5, 7)
    with pytest.raises(EclipseError, match="7x5"):
        decode(data, "x", max_pixels=34)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_truncated_image_is_refused_by_name(format: str, rng: np.random.Generator) -> None:
    data = saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    with pytest.raises(EclipseError, match=r"^half is "):
        decode(data[: len(data) // 2], "half")


@pytest.mark.parametrize(
    "data", [b"", b"hello, I am text\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(EclipseError, match=r"notes\.png"):
        decode(data, "notes.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on what it skips
def test_damaged_images_never_raise_anything_else(rng: np.random.Generator, pixels: Pixels) -> None:
    for format in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        good = np.frombuffer(saved(Image.fromarray(pixels), format), np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 3)] = rng.integers(0, 256, 3)
            try:
                decode(bad.tobytes(), "x")
            except EclipseError as error:
                assert str(error).startswith("x ")


@pytest.mark.parametrize("shape", [(5,), (5, 5, 5, 5), (5, 4, 4), (3, 0, 4)])
def test_raw_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EclipseError, match="row 3 is uint8 of shape"):
        from_array(np.zeros(shape, np.uint8), "row 3")


# ---- what would be lost without a word


def png_of_rows(depth: int, color_type: int, rows: list[bytes], extra: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with further chunks before and after its pixels."""
    width = 8 * len(rows[0]) // depth // {0: 1, 2: 3, 3: 1}[color_type]
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + after + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(array: Pixels, extra: list[int], sign: int = 1) -> bytes:
    """An uncompressed TIFF with bands of 8 bits, the kinds of those beyond its colors, and their kind of number."""
    height, width, bands = array.shape
    tags = [(256, [width]), (257, [height]), (258, [8] * bands), (259, [1]), (262, [2 if bands > 2 else 1]), (273, [8])]
    tags += [(277, [bands]), (278, [height]), (279, [array.size]), (284, [1])]
    tags += [(338, extra)] if extra else []
    tags += [(339, [sign] * bands)] if sign != 1 else []
    tail, entries, base = b"", b"", 8 + array.size + 2 + 12 * len(tags) + 4
    for tag, values in tags:
        raw = struct.pack(f"<{len(values)}H", *values)
        place = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", base + len(tail))
        entries += struct.pack("<HHI", tag, 3, len(values)) + place
        tail += raw if len(raw) > 4 else b""
    head = b"II*\0" + struct.pack("<I", 8 + array.size) + array.tobytes()
    return head + struct.pack("<H", len(tags)) + entries + bytes(4) + tail


@pytest.mark.parametrize(
    ("bands", "extra"), [(5, [0, 0]), (5, [1, 0]), (5, [2, 0]), (4, [0]), (6, [2, 0, 0]), (2, [0]), (5, [0])]
)
def test_bands_of_a_tiff_that_would_be_lost_are_refused_by_name(
    bands: int, extra: list[int], rng: np.random.Generator
) -> None:
    with pytest.raises(EclipseError, match=r"^field\.tif "):
        decode(tiff(rng.integers(0, 256, (6, 5, bands), dtype=np.uint8), extra), "field.tif")


@pytest.mark.parametrize(("bands", "extra"), [(1, []), (3, []), (4, [2]), (2, [2])])
def test_bands_of_a_tiff_that_are_known_are_read_exactly(
    bands: int, extra: list[int], rng: np.random.Generator
) -> None:
    array = rng.integers(0, 256, (6, 5, bands), dtype=np.uint8)
    picture = decode(tiff(array, extra), "x")
    assert np.array_equal(picture.rgb[0], array[..., 0]) and picture.gray == (bands < 3)
    assert picture.alpha is None if not extra else np.array_equal(picture.alpha, array[..., -1])


def test_signed_values_are_refused_by_name(rng: np.random.Generator) -> None:
    with pytest.raises(EclipseError, match=r"^field\.tif "):
        decode(tiff(rng.integers(0, 256, (6, 5, 1), dtype=np.uint8), [], sign=2), "field.tif")


@pytest.mark.parametrize(
    ("depth", "row", "values"),
    [
        (1, b"\x5a", [0, 1, 0, 1, 1, 0, 1, 0]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x0e", [0, 14]),
        (8, b"\x07\x80", [7, 128]),
    ],
)
def test_a_transparent_gray_is_scaled_as_the_pixels_are(depth: int, row: bytes, values: list[int]) -> None:
    high = 0 if depth == 1 else 0x0100  # of which nothing counts; Pillow itself looks at it where the depth is 1
    for key in values:
        picture = decode(png_of_rows(depth, 0, [row], chunk(b"tRNS", struct.pack(">H", key | high))), "x")
        assert picture.alpha is not None
        assert picture.alpha[0].tolist() == [0 if value == key else 255 for value in values]
        assert picture.rgb[0, 0].tolist() == [value * 255 // (2**depth - 1) for value in values]


def test_a_transparent_color_and_a_palette_with_several_alphas_are_exact() -> None:
    key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 0x0103))
    alpha = decode(png_of_rows(8, 2, [bytes([1, 2, 3, 3, 2, 1])], key), "x").alpha
    assert alpha is not None and alpha.tolist() == [[0, 255]]
    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", bytes([10, 0, 200]))
    picture = decode(png_of_rows(2, 3, [b"\x1b"], palette), "x")
    assert picture.alpha is not None and picture.alpha.tolist() == [[10, 0, 200, 255]]
    assert picture.rgb[0].tolist() == [[0, 3, 6, 9]]


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")


@needs_avif
def test_avif_is_read_where_pillow_can(pixels: Pixels) -> None:
    picture = decode(saved(Image.fromarray(pixels), "AVIF", quality=100, subsampling="4:4:4"), "x")
    assert picture.rgb.shape == (3, 5, 7) and np.abs(picture.rgb.transpose(1, 2, 0).astype(int) - pixels).max() < 12


@needs_avif
def test_avif_of_more_than_8_bits_is_refused_by_name(pixels: Pixels) -> None:
    data = bytearray(saved(Image.fromarray(pixels), "AVIF"))
    data[data.index(b"av1C") + 6] |= 0x40
    depths = data.index(b"pixi") + 9
    data[depths : depths + 3] = b"\x0a\x0a\x0a"
    with pytest.raises(EclipseError, match=r"scan\.avif has more than 8 bits a channel"):
        decode(bytes(data), "scan.avif")


# ---- damaged metadata around whole pixels


def broken(kind: bytes, data: bytes) -> bytes:
    """A chunk with a wrong sum."""
    return chunk(kind, data)[:-4] + b"\0\0\0\0"


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"iCCP", b"icc\0\0not compressed"),
        chunk(b"iCCP", b""),
        chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"eXIf", b"garbage"),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        chunk(b"gAMA", b""),
        chunk(b"pHYs", b"1"),
        chunk(b"cHRM", b"12"),
        broken(b"tEXt", b"key\0value"),
        broken(b"iCCP", b"icc\0\0"),
    ],
)
def test_a_png_is_read_whatever_its_metadata_are(extra: bytes) -> None:
    rows = [bytes([1, 2, 3, 3, 2, 1])] * 2
    key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    expected = decode(png_of_rows(8, 2, rows, key), "x")
    for data in (png_of_rows(8, 2, rows, key + extra), png_of_rows(8, 2, rows, key, extra)):
        picture = decode(data, "x")
        assert np.array_equal(picture.rgb, expected.rgb) and picture.alpha is not None and not picture.alpha[0, 0]


def test_damage_of_the_pixels_is_still_damage() -> None:
    data = png_of_rows(8, 0, [bytes(range(8))], chunk(b"iCCP", b""))
    with pytest.raises(EclipseError, match="x is a damaged or truncated image"):
        decode(data.replace(data[data.index(b"IDAT") + 8 : data.index(b"IEND") - 8], b"\xff" * 4), "x")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on what it skips
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"garbage", b"II*\0\x08\0\0\0\x05\0\x12\x01", b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0", b""],
)
def test_an_image_is_read_whatever_its_exif_data_are(format: str, exif: bytes, pixels: Pixels) -> None:
    data = saved(Image.fromarray(pixels), format, exif=b"Exif\0\0" + exif)
    plain = saved(Image.fromarray(pixels), format)
    assert np.array_equal(decode(data, "x").rgb, decode(plain, "x").rgb)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_turned_image_is_turned_though_other_exif_data_are_damaged(pixels: Pixels) -> None:
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    damaged = struct.pack("<HHII", 0x8825, 4, 1, 0xFFFF) + struct.pack("<HHII", 0x9286, 2, 9, 0xFFFFFF)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + orientation + damaged + bytes(4)
    assert decode(saved(Image.fromarray(pixels), "PNG", exif=exif), "x").rgb.shape == (3, 7, 5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
def test_a_jpeg_is_read_whatever_stands_in_its_segments(marker: int, pixels: Pixels, rng: np.random.Generator) -> None:
    plain = saved(Image.fromarray(pixels), "JPEG")
    for start in (b"", b"Exif\0\0II*\0", b"ICC_PROFILE\0\1", b"MPF\0II*\0\x08\0\0\0", b"Photoshop 3.0\x008BIM\4\4"):
        content = start + rng.integers(0, 256, 30, dtype=np.uint8).tobytes()
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
        assert np.array_equal(decode(plain[:2] + segment + plain[2:], "x").rgb, decode(plain, "x").rgb)


def test_a_resized_image_is_the_square_in_the_middle_without_aliases() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 48))  # a pattern of the finest kind, 96 pixels wide
    found = resized(from_array(np.stack([stripes] * 3), "x"), 16)
    assert found.rgb.shape == (3, 16, 16) and np.abs(found.rgb.astype(int) - 127.5).max() < 24
    sides = np.full((4, 40, 80), 255, np.uint8)
    sides[:, :, 20:60], sides[3] = 90, 200
    found = resized(from_array(sides, "x"), 20)
    assert (found.rgb[:, :, 2:-2] == 90).all() and found.alpha is not None and (found.alpha == 200).all()
    gray = resized(from_array(stripes, "x"), 8)
    assert gray.gray and (gray.rgb == gray.rgb[:1]).all()


def test_an_image_of_the_size_asked_for_stays_as_it_is_and_a_smaller_one_is_enlarged(rng: np.random.Generator) -> None:
    picture = from_array(rng.integers(0, 256, (3, 12, 12), dtype=np.uint8), "x")
    assert resized(picture, 12) is picture
    assert resized(from_array(np.full((3, 2, 5), 7, np.uint8), "x"), 9).rgb.tolist() == np.full((3, 9, 9), 7).tolist()


@pytest.mark.parametrize(
    ("height", "width", "longest", "after"), [(20, 40, 10, (5, 10)), (40, 20, 39, (39, 20)), (90, 1, 9, (9, 1))]
)
def test_a_reduced_image_keeps_its_proportions(height: int, width: int, longest: int, after: tuple[int, int]) -> None:
    picture = from_array(np.full((4, height, width), 90, np.uint8), "x")
    found = limited(picture, longest)
    assert found.rgb.shape == (3, *after) and found.alpha is not None and found.alpha.shape == after
    assert (found.rgb == 90).all() and limited_size((height, width), longest) == after
    assert limited(picture, max(height, width)) is picture


# Memory


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_slabs_make_no_difference(mode: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(rng.integers(0, 256, (50, 30, 4), dtype=np.uint8))
    image = image.convert("LA" if "A" in mode else "RGB").convert(mode)
    data = saved(image, "TIFF" if mode in ("CMYK", "YCbCr", "PA") else "PNG")
    whole = decode(data, "x")
    png = encode_png(whole)
    monkeypatch.setattr(pictures, "_SLAB_PIXELS", 7 * 30)
    again = decode(data, "x")
    assert np.array_equal(planes(again), planes(whole)) and again.gray == whole.gray
    assert encode_png(again) == png


def test_no_second_copy_is_made_of_a_large_image_on_its_way(rng: np.random.Generator) -> None:
    """Of what NumPy and zlib take; Pillow has one more, of four bytes a pixel."""
    array = rng.integers(0, 256, (3, 2000, 2000), dtype=np.uint8)
    made, png = peak_of(lambda: encode_png(from_array(array, "x")))
    assert png < 2.2 * array.nbytes, "of noise, the PNG is as large as the image"
    _, pixels = peak_of(lambda: decode(made, "x"))
    assert pixels < 1.9 * array.nbytes


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What a function gives, and the most memory that it took."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
