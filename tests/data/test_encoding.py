"""Formats of new image files: what they keep, what they refuse, and that every layout of files takes them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.commands import Command, refusal, write_images
from kit.layouts import LAYOUTS, NAMES, arrow_table, image_of, tree_bytes
from kit.streams import assemble, purify_source
from kit.tiny import CONFIG, one_sentence, tiny_denoiser
from PIL import Image, JpegImagePlugin

from eclipse.data.encoding import PNG, Encoding, encoding
from eclipse.data.layouts.folder import is_image, without_ending
from eclipse.data.output import check_output
from eclipse.data.picture import Picture, decode, from_array, planes
from eclipse.data.source import load_pictures, open_source
from eclipse.data.store import Source
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import purification
from eclipse.purification.stream import Treatment

JOB = Treatment(purification(FAST, CONFIG), seed=0, device="cpu")
WEBP, JPEG = encoding("webp"), encoding("jpeg:95")


def picture_of(channels: int, height: int = 21, width: int = 34) -> Picture:
    """A smooth picture; where it has alpha, that is 0 in places."""
    rows, columns = np.mgrid[:height, :width]
    stored = np.stack([rows * (3 + i) + columns * (5 - i) for i in range(channels)]).astype(np.uint8)
    return from_array(stored, "x")


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_nothing_is_lost_not_even_colors_that_nobody_sees(kind: str, channels: int) -> None:
    picture = picture_of(channels)
    data = encoding(kind).encode(picture, "x")
    again = decode(data, "x")
    assert data == encoding(kind).encode(picture, "x")
    np.testing.assert_array_equal(again.rgb, picture.rgb)
    assert (again.alpha is None) == (picture.alpha is None)
    if picture.alpha is not None:
        assert picture.alpha.min() == 0
        np.testing.assert_array_equal(again.alpha, picture.alpha)
    assert again.gray == (kind == "png" and channels < 3)  # WebP has no gray


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_near_and_keeps_gray_and_the_resolution_of_color(channels: int) -> None:
    picture = picture_of(channels)
    sizes = []
    for quality in (100, 95, 20):
        data = encoding(f"jpeg:{quality}").encode(picture, "x")
        assert data == encoding(f"jpeg:{quality}").encode(picture, "x")
        sizes.append(len(data))
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG" and image.mode == ("L" if channels == 1 else "RGB")
            assert channels == 1 or JpegImagePlugin.get_sampling(image) == 0, "4:4:4"
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]
    near = planes(decode(JPEG.encode(picture, "x"), "x")).astype(float)
    assert np.abs(near - planes(picture)).mean() < 6


@pytest.mark.parametrize(
    ("asked", "channels", "size", "words"),
    [
        ("jpeg:95", 4, (8, 8), r"x has an alpha channel, which JPEG cannot hold; expected --image-format png or webp"),
        ("jpeg:95", 2, (8, 8), "x has an alpha channel"),
        ("webp", 3, (1, 16384), r"x is 16384x1, and webp holds at most 16,383 pixels a side; expected .* png"),
        ("jpeg:95", 1, (65501, 1), r"x is 1x65501, and jpeg holds at most 65,500 pixels a side"),
    ],
)
def test_images_that_do_not_fit_are_refused(asked: str, channels: int, size: tuple[int, int], words: str) -> None:
    with pytest.raises(EclipseError, match=words) as caught:
        encoding(asked).encode(picture_of(channels, *size), "x")
    one_sentence(str(caught.value))


@pytest.mark.parametrize(("kind", "longest"), [("webp", 16383), ("jpeg:50", 65500)])
def test_the_longest_side_is_taken(kind: str, longest: int) -> None:
    picture = picture_of(1, 1, longest)
    assert decode(encoding(kind).encode(picture, "x"), "x").rgb.shape == (3, 1, longest)


@pytest.mark.parametrize(
    "text", ["jpeg", "jpeg:0", "jpeg:101", "jpeg:095", "jpeg:9.5", "jpg", "PNG", "", "webp:80", "jpeg:٣"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(
        EclipseError, match=r"expected png, webp .* or jpeg with a quality of 1 to 100, such as jpeg:95"
    ):
        encoding(text)


# ---- layouts


def encoded(source: Source, kind: Encoding) -> Iterator[tuple[str, bytes]]:
    return ((row.id, kind.encode(row.picture(), row.name)) for row in source.rows())


def image_names(place: Path) -> set[str]:
    """What images are called in an output, wherever it has names for them."""
    source = open_source(place)
    if source.layout == "folder":
        return {row.id for row in source.rows()}
    if source.layout == "webdataset":
        return {
            name
            for path in ([place] if place.is_file() else place.rglob("*.tar"))
            for name in tarfile.open(path).getnames()
            if is_image(name)
        }
    if source.layout == "arrow":
        table = datasets.load_from_disk(str(place)).data
    else:
        parts = [place] if place.is_file() else place.rglob("*.parquet")
        table = pa.concat_tables([pq.read_table(part) for part in parts])
    return {str(image["path"] or "") for image in table.column("image").to_pylist()}


_FILES = sorted(set(LAYOUTS) - {name for name in LAYOUTS if any(word in name for word in ("npz", "cifar", "eclipse"))})


@pytest.mark.parametrize("layout", _FILES)
@pytest.mark.parametrize("kind", [WEBP, JPEG], ids=str)
def test_layouts_of_files_take_all_formats(layout: str, kind: Encoding, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    out = tmp_path / f"out{Path(source.spec).suffix}"
    assemble(source, encoded(source, kind), out, None, frozenset(), kind)
    again = open_source(out)
    assert [row.label for row in again.rows()] == [row.label for row in source.rows()]
    assert all(decode(row.data, "x").rgb.shape == (3, 32, 32) for row in again.rows() if isinstance(row.data, bytes))
    starts = {row.data[:4] for row in again.rows() if isinstance(row.data, bytes)}
    assert starts == {b"RIFF"} if kind == WEBP else all(start[:3] == b"\xff\xd8\xff" for start in starts)
    names = {name for name in image_names(out) if name and "mask" not in name}
    assert all(name.endswith(kind.suffix) for name in names)
    if kind == WEBP:
        np.testing.assert_array_equal(load_pictures(again), load_pictures(source))


@pytest.mark.parametrize("format", ["folder", "webdataset", "parquet"])
@pytest.mark.parametrize("layout", ["npz", "parquet"])
def test_conversions_take_all_formats(format: str, layout: str, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    out = tmp_path / ("out.parquet" if format == "parquet" else "out")
    assemble(source, encoded(source, WEBP), out, format, frozenset(), WEBP)
    assert all(name.endswith(".webp") for name in image_names(out))
    again = open_source(out)
    assert sorted(p.tobytes() for p in load_pictures(again)) == sorted(p.tobytes() for p in load_pictures(source))


@pytest.mark.parametrize(("layout", "format"), [("npz", None), ("folder", "npz"), ("cifar", None)])
def test_layouts_of_plain_pixels_refuse_the_option(layout: str, format: str | None, tmp_path: Path) -> None:
    name = next(name for name in LAYOUTS if layout in name)
    source = open_source(LAYOUTS[name](tmp_path / "in"))
    with pytest.raises(
        EclipseError, match=r"--image-format webp, and the layout .* holds plain pixels; expected"
    ) as caught:
        check_output(source, tmp_path / ("out.npz" if format else "out"), format, WEBP)
    one_sentence(str(caught.value))
    check_output(source, tmp_path / "out", format, PNG)


def test_names_are_those_of_the_format_and_must_not_collide(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp"):
        path = tmp_path / "in" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_of(0)).save(path)
    with pytest.raises(EclipseError, match=r"would both become cat/a\.webp"):
        check_output(open_source(tmp_path / "in"), tmp_path / "out", None, WEBP)


def test_metadata_tell_the_new_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    Image.fromarray(image_of(0)).save(root / "a.png")
    (root / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n')
    source = open_source(root)
    assemble(source, encoded(source, WEBP), tmp_path / "out", None, frozenset(), WEBP)
    assert '"a.webp"' in (tmp_path / "out" / "metadata.jsonl").read_text()


# ---- commands


def test_purify_writes_a_format_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 10)
    denoiser = tiny_denoiser()

    def run(name: str, kind: Encoding, tell: object = None) -> dict[str, bytes]:
        options = {} if tell is None else {"tell": tell}
        purify_source(open_source(tmp_path / "in"), denoiser, tmp_path / name, JOB, batch=3, encoding=kind, **options)  # type: ignore[arg-type]
        return tree_bytes(tmp_path / name)

    def stop(event: object) -> None:
        if getattr(event, "done", 0) >= 6:
            raise KeyboardInterrupt

    plain, webp = run("png", PNG), run("webp", WEBP)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", WEBP, stop)
    with pytest.raises(EclipseError, match=r'output image format = "webp" and this run asks for "jpeg:95"'):
        run("stopped", JPEG)
    assert run("stopped", WEBP) == webp
    assert {without_ending(name) for name in webp} == {without_ending(name) for name in plain}
    for name, data in plain.items():
        found = decode(webp[without_ending(name) + ".webp"], "x").rgb
        np.testing.assert_array_equal(found, decode(data, "x").rgb)


def test_the_command_tells_what_is_lost_and_refuses_before_the_work(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "in", 4)
    purify = ["purify", tmp_path / "in", "--out", tmp_path / "out", "--image-format"]
    said = command(*purify, "jpeg:90", "--report")
    assert said.code == 0 and said.out.count("note: images are written as JPEG of quality 90") == 1
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 4
    assert "images as jpeg:90" in (tmp_path / "out.report.html").read_text(encoding="utf-8")
    assert "output image format" in refusal(command(*purify, "jpeg:91"))
    Image.new("RGBA", (8, 8)).save(tmp_path / "in" / "class1" / "z.png")
    purify[3] = tmp_path / "other"
    said = command(*purify, "jpeg:90")
    assert "z.png has an alpha channel" in refusal(said) and "settings" not in said.out


def test_poison_takes_formats_without_loss_alone(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "in", 4)
    poison = ["poison", tmp_path / "in", "--attack", "lsp", "--out", tmp_path / "out", "--image-format"]
    assert "webp, which is smaller and loses nothing" in refusal(command(*poison, "jpeg:95"))
    assert command(*poison, "webp").code == 0
    assert len(list((tmp_path / "out").rglob("*.webp"))) == 4
    said = command("verify", tmp_path / "out", "--clean", tmp_path / "in")
    assert said.code == 0, said


def test_arrow_columns_keep_their_schema(tmp_path: Path) -> None:
    pq.write_table(arrow_table(), tmp_path / "in.parquet")
    source = open_source(tmp_path / "in.parquet")
    assemble(source, encoded(source, WEBP), tmp_path / "out.parquet", None, frozenset(), WEBP)
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.schema.equals(pq.read_schema(tmp_path / "in.parquet"), check_metadata=True)
    assert (
        made["image"][0].as_py()["path"] == "photos.d/0.webp"
        and open_source(tmp_path / "out.parquet").class_names == NAMES
    )
