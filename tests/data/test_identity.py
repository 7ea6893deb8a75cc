"""A data set that is replaced while it is worked on is found out, in every layout and by every command."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from kit.commands import Command, refusal, write_images
from kit.layouts import LAYOUTS, arrow_table
from kit.streams import assemble, purify_source, shard_folder
from kit.tiny import CONFIG, some_images, tiny_denoiser

from eclipse.data import encoding
from eclipse.data.picture import encode_png
from eclipse.data.source import load_imageset, load_pictures, open_source
from eclipse.data.store import Row, Source
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError
from eclipse.jobs.verify import verify
from eclipse.purification.algorithm import purification
from eclipse.purification.stream import Treatment

JOB = Treatment(purification(FAST, CONFIG), seed=0, device="cpu")


def later(path: Path) -> None:
    """The same bytes, written again at another time."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))


def same(source: Source, then: Callable[[], None]) -> Iterator[tuple[str, bytes]]:
    """The images as they are; something happens after the first."""
    for i, row in enumerate(source.rows()):
        yield row.id, encode_png(row.picture())
        if i == 0:
            then()


@pytest.mark.parametrize("format", [None, "folder", "parquet", "npz", "webdataset"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_output_is_made_of_two_states_of_a_data_set(layout: str, format: str | None, tmp_path: Path) -> None:
    made = LAYOUTS[layout](tmp_path / "in")
    if "parquet" in layout and format in ("npz", "folder", "webdataset"):  # lists have no place in an archive
        made = tmp_path / "flat.parquet"
        pq.write_table(arrow_table().drop_columns(["boxes"]), made)
    source = open_source(made)
    *_, (_, last) = source.store.files()
    folder = source.store.is_folder if format in (None, source.layout) else format in ("folder", "webdataset")
    ending = {"parquet": ".parquet", "npz": ".npz"}.get(format or source.layout, "")
    out = tmp_path / f"out{'' if folder else ending}"
    with pytest.raises(EclipseError, match="were changed while they were worked on"):
        assemble(source, same(source, lambda: later(last)), out, format, frozenset())
    assert not out.exists()
    again = open_source(made)
    assemble(again, same(again, lambda: None), out, format, frozenset())


@pytest.mark.parametrize("load", [load_pictures, lambda source: load_imageset(source, "a test")])
@pytest.mark.parametrize("layout", ["folder", "parquet", "one_shard", "npz", "cifar", "eclipse"])
def test_what_is_loaded_is_one_state(
    layout: str, load: Callable[[Source], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    _, first = next(source.store.files())
    picture = Row.picture

    def touching(row: Row) -> Any:
        later(first)
        return picture(row)

    monkeypatch.setattr(Row, "picture", touching)
    with pytest.raises(EclipseError, match="were changed while they were worked on"):
        load(source)


def rows_of(path: Path, order: list[int]) -> Path:
    """A Parquet file with its images and labels in an order; the size does not depend on it."""
    table = arrow_table(names=False).take(order)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    return path


@pytest.mark.parametrize("hidden", [False, True], ids=["later", "of the same size and time"])
def test_purify_refuses_rows_in_another_order_by_name_and_goes_on_with_the_old_ones(
    hidden: bool, tmp_path: Path
) -> None:
    path = rows_of(tmp_path / "in.parquet", list(range(13)))
    first = path.read_bytes()
    other = rows_of(tmp_path / "other.parquet", list(range(13))[::-1])
    status = path.stat()
    if hidden:
        assert other.stat().st_size == status.st_size
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    source, out, denoiser = open_source(path), tmp_path / "out.parquet", tiny_denoiser()

    def swap(event: object) -> None:
        if other.exists():
            os.replace(other, path)

    with pytest.raises(EclipseError, match=r"the image 0 of .*in\.parquet has changed"):
        purify_source(source, denoiser, out, JOB, batch=4, tell=swap)
    assert not out.exists() and shard_folder(out).exists()
    path.write_bytes(first)
    purify_source(open_source(path), denoiser, out, JOB)
    assert [row.label for row in open_source(out).rows()] == [i % 3 for i in range(13)]


def test_purify_refuses_new_labels_of_the_same_images(tmp_path: Path) -> None:
    images = some_images(6).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "in.npz", images=images, labels=np.arange(6))
    source, denoiser = open_source(tmp_path / "in.npz"), tiny_denoiser()

    def relabel(event: object) -> None:
        np.savez(tmp_path / "in.npz", images=images, labels=np.arange(6)[::-1])

    with pytest.raises(EclipseError, match=r"in\.npz were changed while"):
        purify_source(source, denoiser, tmp_path / "out.npz", JOB, batch=2, tell=relabel)
    assert not (tmp_path / "out.npz").exists()
    purify_source(open_source(tmp_path / "in.npz"), denoiser, tmp_path / "out.npz", JOB)
    assert np.load(tmp_path / "out.npz")["labels"].tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("replaced", ["clean", "poison"])
def test_poison_refuses_what_was_replaced(
    replaced: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, made = write_images(tmp_path / "clean", 4), write_images(tmp_path / "poison", 4, seed=1)
    encode = encoding.encode_png

    def touching(picture: Any) -> bytes:
        later(next((tmp_path / replaced).rglob("*.png")))
        return encode(picture)

    monkeypatch.setattr(encoding, "encode_png", touching)
    said = command("poison", clean, "--import", made, "--out", tmp_path / "out")
    assert f"the files of {tmp_path / replaced} were changed" in refusal(said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("attack", ["urp", "lsp"])
def test_crafting_refuses_what_was_replaced(
    attack: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = write_images(tmp_path / "clean", 4)
    encode = encoding.encode_png

    def touching(picture: Any) -> bytes:
        later(clean / "class0" / "000.png")
        return encode(picture)

    monkeypatch.setattr(encoding, "encode_png", touching)
    assert "were changed while" in refusal(command("poison", clean, "--attack", attack, "--out", tmp_path / "out"))


def test_verify_compares_one_state(tmp_path: Path) -> None:
    clean, other = write_images(tmp_path / "clean", 4), write_images(tmp_path / "poison", 4, seed=1)
    with pytest.raises(EclipseError, match="clean were changed while"):
        verify(open_source(other), open_source(clean), tell=lambda event: later(clean / "class0" / "000.png"))


def test_names_of_classes_are_part_of_the_state(tmp_path: Path) -> None:
    for layout, name in (("cifar", "batches.meta"), ("shards", "classnames.txt")):
        made = LAYOUTS[layout](tmp_path / layout)
        (made / "classnames.txt").write_text("ant\nbee\ncow\n")
        before = open_source(made).fingerprint()
        later(made / name)
        assert open_source(made).fingerprint() != before
