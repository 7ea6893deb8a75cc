"""What is an image: its content decides, and not how it is named."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.layouts import image_of, pack, png_of, put
from kit.streams import assemble
from PIL import Image

from eclipse.attacks.imported import open_imported
from eclipse.data.picture import begins_as_image, encode_png, repainted
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ODD = ("0003", "b.jpg_large", "c.jpg?w=300", "d.webp.1", "e.jif", "f.jpg~", "g.txt", "v1.5", "v1.6", "h.JPG.bak")


def encoded(format: str, i: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_of(i)).save(buffer, format)
    return buffer.getvalue()


def inverted(source: Source, out: Path, format: str | None = None) -> Path:
    """Every row with other pixels, written as a purification is."""
    pictures = ((row.id, encode_png(repainted(picture := row.picture(), 255 - picture.rgb))) for row in source.rows())
    assemble(source, pictures, out, format, frozenset())
    return out


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_told_by_its_beginning(format: str) -> None:
    assert begins_as_image(encoded(format)[:64])


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x1cftypavif",
        b"\0\0\0\x18ftypheic",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"8BPS\0\1",
        b"P5 # by hand\n2 2\n255\n",
    ],
)
def test_so_are_formats_that_cannot_be_read(head: bytes) -> None:
    assert begins_as_image(head)


@pytest.mark.parametrize(
    "head", [b"", b"BMW, the car of a man with a dog and a cat", b"P6 is a processor", b"II. Notes", b"\x80\x04", b"{}"]
)
def test_text_is_no_image(head: bytes) -> None:
    assert not begins_as_image(head)


@pytest.mark.parametrize("format", FORMATS)
def test_no_file_of_a_folder_passes_because_of_its_name(format: str, tmp_path: Path) -> None:
    files = {f"cat/{name}": encoded(format, i) for i, name in enumerate(ODD)}
    source = open_source(put(tmp_path / "in", {**files, "cat/notes.txt": b"BM, a note", "dog/1.png": png_of(1)}))
    assert [row.id for row in source.rows()] == [*sorted(files), "dog/1.png"] and source.class_names == ("cat", "dog")
    out = inverted(source, tmp_path / "out")
    assert sorted(os.listdir(out / "cat")) == sorted([*(f"{name}.png" for name in ODD), "notes.txt"])
    assert (out / "cat" / "notes.txt").read_bytes() == b"BM, a note"
    with Image.open(out / "cat" / "0003.png") as new, Image.open(tmp_path / "in" / "cat" / "0003") as old:
        assert np.array_equal(np.asarray(new), 255 - np.asarray(old.convert("RGB")))


@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_nor_when_the_folder_becomes_something_else(format: str, tmp_path: Path) -> None:
    source = open_source(put(tmp_path / "in", {f"cat/{name}": encoded("PNG", i) for i, name in enumerate(ODD)}))
    out = inverted(source, tmp_path / "out", format)
    again = open_source(out)
    assert sorted(row.picture().rgb.tobytes() for row in again.rows()) == sorted(
        (255 - row.picture().rgb).tobytes() for row in source.rows()
    )


@pytest.mark.parametrize("name", ODD)
def test_no_member_of_a_shard_passes_because_of_its_name(name: str, tmp_path: Path) -> None:
    key = name.partition(".")[0]
    members = {name: encoded("JPEG"), f"{key}.cls": b"0", f"{key}.json": b"{}", "k.png": png_of(1), "k.cls": b"1"}
    source = open_source(pack(tmp_path / "in.tar", members))
    assert len(source) == 2 and source.has_labels
    with tarfile.open(inverted(source, tmp_path / "out.tar")) as tar:
        assert tar.getnames() == [f"{key}.png", f"{key}.cls", f"{key}.json", "k.png", "k.cls"]


def test_two_images_of_one_key_are_refused_however_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match=r"two images of one key, 0\.jpg and 0\.jpg~"):
        open_source(pack(tmp_path / "in.tar", {"0.jpg": encoded("JPEG"), "0.jpg~": encoded("JPEG")}))


def test_an_image_that_would_take_the_name_of_another_is_refused(tmp_path: Path) -> None:
    source = open_source(put(tmp_path / "in", {"0": png_of(0), "0.jpg": png_of(1)}))
    with pytest.raises(EclipseError, match=r"both become 0\.png"):
        inverted(source, tmp_path / "out")


def test_images_beside_a_table_are_seen_by_their_content(tmp_path: Path) -> None:
    put(tmp_path / "in", {"more/0003": png_of(0)})
    pq.write_table(pa.table({"image": [png_of(1)]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(EclipseError, match="beside other data"):
        open_source(tmp_path / "in")


def test_imported_images_are_paired_by_such_names(tmp_path: Path) -> None:
    files = {f"{i}.jpg_large": png_of(i) for i in range(3)}
    clean = open_source(put(tmp_path / "clean", files))
    poison = put(tmp_path / "poison", {f"{name}.png": png_of(i + 5) for i, name in enumerate(files)})
    rows = open_imported(str(poison), clean).rows(clean)
    assert [np.array_equal(pixels, image_of(i + 5).transpose(2, 0, 1)) for i, (_, _, pixels) in enumerate(rows)]
