"""Bad input: each gives one sentence, runs nothing, leads out of no root, and leaves no half output."""

import errno
import io
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.hostile import Bomb, malicious
from kit.streams import assemble
from PIL import Image

from eclipse.data.layouts import pickles
from eclipse.data.layouts.tree import folds_names
from eclipse.data.output import check_output
from eclipse.data.picture import encode_png, from_array
from eclipse.data.source import load_imageset, load_pictures, open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError


def png(side: int = 4, value: int = 0) -> bytes:
    return encode_png(from_array(np.full((3, side, side), value, np.uint8), "x"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "cat").mkdir(parents=True)
    for i in range(3):
        (root / "cat" / f"{i}.png").write_bytes(png(4, i))
    return root


def same(source: Source) -> Iterator[tuple[str, bytes]]:
    return ((row.id, encode_png(row.picture())) for row in source.rows())


def assert_one_sentence(error: BaseException) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) < 900 and not text.endswith(".")


@contextmanager
def little_memory(most: int = 2**25) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# ---- what cannot be opened


def test_no_such_path(tmp_path: Path) -> None:
    for spec in (tmp_path / "nothing", f"{tmp_path}/nothing[:10]", f"{tmp_path}/s-{{000..004}}.tar", ""):
        with pytest.raises(EclipseError, match="no such path") as caught:
            open_source(spec)
        assert_one_sentence(caught.value)


def test_an_empty_set_is_refused_in_every_layout(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    column = pa.array([], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": column}), tmp_path / "t.parquet")
    np.savez(tmp_path / "a.npz", images=np.zeros((0, 4, 4, 3), np.uint8))
    tarfile.open(tmp_path / "s.tar", "w").close()
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([]))
    (tmp_path / "batch.pkl").write_bytes(pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}))
    for name in ("folder", "t.parquet", "a.npz", "s.tar", "list.pkl", "batch.pkl"):
        with pytest.raises(EclipseError, match="has no images; expected at least one"):
            open_source(tmp_path / name)


def test_a_parquet_file_without_image_column_lists_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(EclipseError, match=r"no image column; .*name \(string\), label \(int64\)"):
        open_source(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.tar", "x.pkl", "x.png", "x"])
@pytest.mark.parametrize(
    "content", [b"", b"hello, I am text", b"PAR1 and more", b"PK\x03\x04 and more", b"\x80\x04", b"\0" * 700]
)
def test_files_that_are_not_what_they_are_named_give_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EclipseError) as caught:
        open_source(tmp_path / name)
    assert_one_sentence(caught.value)


def test_truncated_files_give_one_sentence(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for i in range(50):
            member = tarfile.TarInfo(f"{i}.png")
            member.size = len(png(32))
            tar.addfile(member, io.BytesIO(png(32)))
    pq.write_table(pa.table({"image": [png(32)] * 50}), tmp_path / "t.parquet")
    (tmp_path / "l.pkl").write_bytes(pickle.dumps([(image.tobytes(), 1) for image in images]))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"data": images.reshape(50, -1), "labels": [1] * 50}))
    for path in list(tmp_path.iterdir()):
        data = path.read_bytes()
        for size in (len(data) // 2 + 7, len(data) // 2 // 512 * 512, 10):
            path.write_bytes(data[:size])
            with pytest.raises(EclipseError, match=path.name) as caught:
                list(open_source(path).rows())
            assert_one_sentence(caught.value)


def test_splits_and_mixed_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "splits" / "train").mkdir(parents=True)
    (tmp_path / "splits" / "dataset_dict.json").write_text("{}")
    with pytest.raises(EclipseError, match=r"several splits \(train\)"):
        open_source(tmp_path / "splits")
    pq.write_table(pa.table({"image": [png()]}), folder / "more.parquet")
    with pytest.raises(EclipseError, match=r"holds \.parquet files beside other data"):
        open_source(folder)


# ---- one bad image


def test_a_bad_image_is_named_and_does_not_stop_the_others(folder: Path) -> None:
    (folder / "cat" / "1.png").write_text("I am text")
    rows = list(open_source(folder).rows())
    with pytest.raises(EclipseError, match=r"cat/1\.png is not an image"):
        rows[1].picture()
    assert rows[2].picture().rgb.max() == 2


def test_an_image_format_that_cannot_be_read_is_refused_and_not_carried_along(folder: Path) -> None:
    (folder / "cat" / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    source = open_source(folder)
    assert len(source) == 4
    with pytest.raises(EclipseError, match=r"photo\.HEIC is not an image that can be read"):
        load_pictures(source)


def test_a_null_image_is_named(tmp_path: Path) -> None:
    images = [{"bytes": png(), "path": None}, None, {"bytes": None, "path": "/etc/passwd"}]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(images, kind)}), tmp_path / "t.parquet")
    rows = list(open_source(tmp_path / "t.parquet").rows())
    assert rows[0].picture().rgb.shape == (3, 4, 4)
    for row in rows[1:]:
        with pytest.raises(
            EclipseError, match=rf"t\.parquet row {row.id} holds (the path '/etc/passwd' and )?no bytes"
        ):
            row.picture()
    skipped = frozenset({"1", "2"})
    assemble(open_source(tmp_path / "t.parquet"), iter([("0", png(4, 9))]), tmp_path / "o.parquet", None, skipped)
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 1


# ---- pickles


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_does_not_run(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for data in malicious(trace, protocol):
        (tmp_path / "data.pkl").write_bytes(data)
        with pytest.raises(EclipseError, match="not a pickle that can be read safely") as caught:
            open_source(tmp_path / "data.pkl")
        assert_one_sentence(caught.value)
        assert not trace.exists()
    pickle.loads(data)  # the proof that it would have run
    assert trace.exists()


def test_a_malicious_list_of_class_names_does_not_run(tmp_path: Path) -> None:
    root = tmp_path / "cifar"
    root.mkdir()
    entries = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    (root / "data_batch_1").write_bytes(pickle.dumps(entries))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": Bomb(tmp_path / "trace")}))
    with pytest.raises(EclipseError, match=r"batches\.meta .* asks for 'posix\.system'"):
        open_source(root)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "value",
    [
        {"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]},
        {"data": np.zeros((2, 3000), np.uint8), "labels": [0, 1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [0]},
        {"data": np.zeros((2, 3072), np.uint8)},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [0], "nested": [[1]]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [0], b"data": 1},
        {"labels": [0, 1]},
        [(bytes(3072), "cat")],
        [(bytes(3071), 1)],
        [bytes(3072)],
        [("x" * 3072, 1)],
        "a string",
        3,
        {1: 2},
    ],
    ids=str,
)
def test_pickles_of_other_data_are_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(EclipseError, match="not a pickle that can be read safely"):
        list(open_source(tmp_path / "data.pkl").rows())


def test_a_pickle_cannot_claim_more_than_its_file_holds(tmp_path: Path) -> None:
    claims = [
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
        b"\x80\x04X\xff\xff\xff\x7fx.",
        b"\x80\x02T\xff\xff\xff\xffx.",
        b"\x80\x04\x8a\xff" + b"\xff" * 255 + b".",
        b"\x80\x04](e" + b"h\x00" * 10 + b".",
    ]
    for data in claims:
        (tmp_path / "data.pkl").write_bytes(data)
        with pytest.raises(EclipseError, match="not a pickle"):
            open_source(tmp_path / "data.pkl")


def test_a_pickle_of_instructions_alone_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "INSTRUCTIONS", 10_000)
    (tmp_path / "data.pkl").write_bytes(b"\x80\x04" + b"]" * 10_200 + b".")
    with pytest.raises(EclipseError, match="too many instructions"):
        open_source(tmp_path / "data.pkl")


def test_random_damage_to_a_pickle_never_raises_anything_else(tmp_path: Path, rng: np.random.Generator) -> None:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "filenames": ["a", "b"]}
    for value in (batch, [(bytes(3072), 1)] * 3):
        good = np.frombuffer(pickle.dumps(value, 4), np.uint8)
        code = np.flatnonzero(good)  # the pixels are zeros: damage the rest
        for _ in range(150):
            bad = good.copy()
            bad[rng.choice(code, 2)] = rng.integers(0, 256, 2)
            (tmp_path / "data.pkl").write_bytes(bad.tobytes())
            try:
                list(open_source(tmp_path / "data.pkl").rows())
            except EclipseError as error:
                assert_one_sentence(error)


def test_no_module_of_the_package_unpickles() -> None:
    for path in Path(pickles.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text and "allow_pickle=True" not in text and "eval(" not in text


def test_an_array_of_objects_in_an_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((1, 4, 4, 3), np.uint8), labels=np.array([Bomb(tmp_path / "trace")]))
    with pytest.raises(EclipseError, match=r"'labels' .* holds Python objects"):
        open_source(tmp_path / "a.npz")
    assert not (tmp_path / "trace").exists()


# ---- archives


@pytest.mark.parametrize(
    "arrays",
    [
        {"x_train": np.zeros((2, 4, 4, 3), np.uint8)},
        {"images": np.zeros((2, 4, 4, 3), np.float32)},
        {"images": np.zeros((2, 5, 5, 5), np.uint8)},
        {"images": np.zeros(8, np.uint8)},
        {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.zeros(3, np.int64)},
        {"images": np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8))},
    ],
    ids=lambda arrays: "-".join(f"{name}{array.shape}{array.dtype}" for name, array in arrays.items()),
)
def test_arrays_of_another_kind_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(EclipseError, match="expected"):
        open_source(tmp_path / "a.npz")


def test_an_archive_cannot_claim_more_than_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, shape, kind in (("images", (10**12, 32, 32, 3), "|u1"), ("labels", (10**12,), "<i8")):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    with pytest.raises(EclipseError, match="expected a complete archive"):
        list(open_source(tmp_path / "a.npz").rows())


def shard_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            member.size = len(png()) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(png()) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "leads out of it") for name in ("../evil.png", "a/../../evil.png", "/etc/evil.png", "a/..")),
        ("a\0.png", "has a zero byte"),
        ("a\udcff.png", "is not UTF-8"),
        ("d/" * 1500 + "a.png", "folders deep"),
    ],
)
def test_a_member_whose_path_could_not_be_written_is_refused(name: str, fault: str, tmp_path: Path) -> None:
    bad = member(name if "\0" not in name else "bad.png")
    if "\0" in name:
        bad.pax_headers = {"path": name}
    path = shard_of(tmp_path / "s.tar", member("good.png"), bad)
    with pytest.raises(EclipseError, match=fault) as caught:
        open_source(path)
    assert_one_sentence(caught.value)


def test_a_size_that_no_file_has_is_refused(tmp_path: Path) -> None:
    path = shard_of(tmp_path / "s.tar", member("good.png"), member("bad.png"))
    data = bytearray(path.read_bytes())
    data[1024 + 124 : 1024 + 136] = b"\x80\x7f" + b"\xff" * 10  # 2**87 bytes
    data[1024 + 148 : 1024 + 156] = b" " * 8
    data[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(data[1024:1536])
    path.write_bytes(data)
    with pytest.raises(EclipseError, match=r"s\.tar") as caught:
        open_source(path)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_is_not_read_whatever_its_size(kind: bytes, tmp_path: Path) -> None:
    with open(tmp_path / "s.tar", "wb") as file:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 2**36
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**36)  # of holes
    with little_memory(), pytest.raises(EclipseError, match=r"a header of 68719476736 bytes"):
        open_source(tmp_path / "s.tar")


def test_what_is_no_image_in_a_shard_is_copied_in_blocks(tmp_path: Path) -> None:
    with open(tmp_path / "s.tar", "wb") as file:
        for name, size, data in (("0.png", len(png()), png()), ("0.mp4", 2**27, b"")):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf() + data + bytes(-len(data) % 512))
        file.truncate(file.tell() + 2**27 + 1024)
    source = open_source(tmp_path / "s.tar")
    with little_memory():
        assemble(source, same(source), tmp_path / "out.tar", None, frozenset())
    assert (tmp_path / "out.tar").stat().st_size > 2**27


@pytest.mark.parametrize("names", [b"\xff\xfe\n", b"cat\xe9\n"])
def test_class_names_that_are_not_utf8_are_refused(names: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in (("a.png", png()), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "classnames.txt").write_bytes(names)
    with pytest.raises(EclipseError, match=r"classnames\.txt cannot be read"):
        open_source(tmp_path)


def test_class_names_of_no_characters_are_refused(tmp_path: Path) -> None:
    names = np.array([2**31 - 1, 97], np.uint32).view("U2")
    np.savez(tmp_path / "x.npz", images=np.zeros((1, 4, 4), np.uint8), labels=[0], class_names=names)
    with pytest.raises(EclipseError, match=r"'class_names' in .*x\.npz holds text that is not UTF-8") as caught:
        open_source(tmp_path / "x.npz")
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("shape", ["(9999999999999999999, 3, 8)", "(-1, 8, 8)", "(True, 8, 8)", "(1, 8, 8", "(1.5, 8)"])
def test_an_array_header_that_cannot_be_is_refused(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", data)
    with pytest.raises(EclipseError, match=r"'images' in .*a\.npz") as caught:
        open_source(tmp_path / "a.npz")
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("where", [-16, 12, 2**31])
def test_an_archive_whose_directory_points_elsewhere_is_refused(where: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.arange(3))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    end = data.rfind(b"PK\5\6") + 16
    data[end : end + 4] = ((int.from_bytes(data[end : end + 4], "little") + where) % 2**32).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(EclipseError, match=r"a\.npz") as caught:
        list(open_source(tmp_path / "a.npz").rows())
    assert_one_sentence(caught.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.broadcast_to(np.uint8(0), (1, 9000, 9000))},
        {"images": np.broadcast_to(np.uint8(0), (1, 3, 9000, 9000))},
        {"images": np.zeros((1, 4, 4), np.uint8), "class_names": np.zeros(1, "<U5000000")},
    ],
)
def test_a_bomb_in_an_archive_is_refused_before_it_is_unpacked(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with little_memory(), pytest.raises(EclipseError, match="expected at most"):
        open_source(tmp_path / "a.npz")


def test_a_table_is_read_in_bounded_memory_whatever_its_values_unpack_to(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([bytes(2**24)] * 32, pa.binary())}), tmp_path / "x.parquet")
    pool, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(counted)
    try:
        assert sum(len(row.data) for row in open_source(tmp_path / "x.parquet").rows()) == 2**29
    finally:
        pa.set_memory_pool(pool)
    assert counted.max_memory() < 2**29


def test_a_column_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([bytes(2**24)] * 32, pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(EclipseError, match="decompression bombs") as caught:
        next(open_source(tmp_path / "x.parquet").rows())
    assert_one_sentence(caught.value)


def not_utf8() -> pa.Array:
    offsets = pa.array([0, 2], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])


@pytest.mark.parametrize("column", ["label", "caption"])
@pytest.mark.parametrize("layout", ["parquet", "arrow"])
def test_text_that_is_not_utf8_is_refused(layout: str, column: str, tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([png()]), column: not_utf8()})
    if layout == "parquet":
        pq.write_table(table, tmp_path / "x.parquet")
        path = tmp_path / "x.parquet"
    else:
        path = tmp_path / "in"
        path.mkdir()
        (path / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
        (path / "dataset_info.json").write_text("{}")
        with pa.OSFile(str(path / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(EclipseError, match=r"cannot be read as a table .*; expected a complete") as caught:
        source = open_source(path)
        assemble(source, same(source), tmp_path / "out.parquet", "parquet", frozenset())
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("name", [b"path", b"image", b"other"])
def test_names_of_columns_that_are_no_text_are_refused(name: bytes, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = pa.array([{"bytes": png(), "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "other": [0]})
    with pa.OSFile(str(tmp_path / "in" / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    written = (tmp_path / "in" / "x.arrow").read_bytes()
    (tmp_path / "in" / "x.arrow").write_bytes(written.replace(name, b"\xf1" + name[1:]))
    (tmp_path / "in" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (tmp_path / "in" / "dataset_info.json").write_text("{}")
    with pytest.raises(EclipseError, match=r"x\.arrow cannot be read as a table .*'utf-8' codec") as caught:
        open_source(tmp_path / "in")
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_batches_are_refused_before_they_are_unpacked(compression: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [png()] * 3, "text": ["x" * 2**24] * 3})
    how, path = pa.ipc.IpcWriteOptions(compression=compression), str(tmp_path / "in" / "x.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema, options=how) as writer:
        writer.write_table(table)
    (tmp_path / "in" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (tmp_path / "in" / "dataset_info.json").write_text("{}")
    before = pa.total_allocated_bytes()
    with pytest.raises(EclipseError, match=r"x\.arrow .*its batches are compressed; expected uncompressed") as caught:
        open_source(tmp_path / "in")
    assert pa.total_allocated_bytes() - before < 2**20
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("metadata", ["[" * 10**5, '{"info": {"features": {"label": {"names": ["\\ud800"]}}}}', "{"])
def test_damaged_class_names_of_a_table_are_refused(metadata: str, tmp_path: Path) -> None:
    table = pa.table({"image": [png()], "label": [0]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(EclipseError, match=r"the metadata of .*x\.parquet cannot be read") as caught:
        _ = open_source(tmp_path / "x.parquet").class_names
    assert_one_sentence(caught.value)


def test_a_table_with_fewer_rows_than_its_metadata_say_is_refused(tmp_path: Path) -> None:
    for folder, count in (("few", 2), ("many", 3)):
        with pa.OSFile(str(tmp_path / folder), "wb") as file:
            table = pa.table({"image": [png()] * count})
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    root = tmp_path / "in"
    root.mkdir()
    shutil.copy(tmp_path / "many", root / "x.arrow")
    (root / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (root / "dataset_info.json").write_text("{}")
    source = open_source(root)
    shutil.copy(tmp_path / "few", root / "x.arrow")
    with pytest.raises(EclipseError, match="ends after row 2 of 3"):
        list(source.rows())


@pytest.mark.parametrize("pixels", [b"\xff\xff", b"aa"])
def test_pixels_spelled_as_text_that_is_damaged_are_refused(pixels: bytes, tmp_path: Path) -> None:
    data = pickle.dumps({"data": np.full((1, 3072), 200, np.uint8), "labels": [0]}, 2)
    (tmp_path / "x.pkl").write_bytes(data.replace(b"\xc3\x88", pixels, 1))
    with pytest.raises(EclipseError, match=r"x\.pkl") as caught:
        list(open_source(tmp_path / "x.pkl").rows())
    assert_one_sentence(caught.value)


def test_folders_in_one_another_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in"
    for _ in range(120):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "0.png").write_bytes(png())
    with pytest.raises(EclipseError, match="more than 100 deep"):
        open_source(tmp_path / "in")


@pytest.mark.parametrize("spec", ["in\udcff", "\ud800", "in\udcff[:10]"])
def test_a_path_that_is_not_utf8_is_refused(spec: str) -> None:
    with pytest.raises(EclipseError, match="is not UTF-8") as caught:
        open_source(spec)
    assert_one_sentence(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_shard_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = shard_of(tmp_path / "s.tar", member("good.png"), member("link.png", kind, "good.png"))
    with pytest.raises(EclipseError, match="a link or device"):
        open_source(path)


def test_a_shard_with_a_damaged_header_is_not_cut_short(tmp_path: Path) -> None:
    path = shard_of(tmp_path / "s.tar", *(member(f"{i}.png") for i in range(3)))
    data = bytearray(path.read_bytes())
    data[1024] ^= 0xFF  # the name in the second header; tarfile itself would end here without a word
    path.write_bytes(data)
    with pytest.raises(EclipseError, match="damaged or cut off at byte 1024"):
        open_source(path)


def test_ambiguous_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match=r"two images of one key, a\.jpg and a\.png"):
        open_source(shard_of(tmp_path / "s.tar", member("a.jpg"), member("a.png")))
    with pytest.raises(EclipseError, match="key 'a' in two places"):
        open_source(shard_of(tmp_path / "s.tar", member("a.jpg"), member("b.png"), member("a.cls")))
    with pytest.raises(EclipseError, match=r"two images of one key, a\.jpg and a\.cls"):
        open_source(shard_of(tmp_path / "s.tar", member("a.jpg"), member("a.cls")))


# ---- out of the root


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "again.png").symlink_to(folder / "cat" / "0.png")
    assert len(open_source(folder)) == 4
    (tmp_path / "secret.png").write_bytes(png())
    for link, target in (
        ("x.png", tmp_path / "secret.png"),
        ("notes.txt", "/etc/passwd"),
        ("dir", "/etc"),
        ("no.png", "/no"),
    ):
        (folder / "cat" / link).symlink_to(target)
        with pytest.raises(EclipseError, match=f"cat/{link} is "):
            open_source(folder)
        (folder / "cat" / link).unlink()


def test_table_and_shard_folders_follow_no_link_out_either(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("t.parquet", "s.tar"):
        root.mkdir()
        pq.write_table(pa.table({"image": [png()]}), tmp_path / "t.parquet")
        shard_of(tmp_path / "s.tar", member("a.png"))
        (root / name).symlink_to(tmp_path / name)
        with pytest.raises(EclipseError, match="a link that leads out of"):
            open_source(root)
        shutil.rmtree(root)


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "", "..", None, "missing.arrow", {}, ["x.arrow"]])
def test_a_saved_dataset_names_no_file_outside(name: object, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret.arrow").write_bytes(b"")
    (root / "dataset_info.json").write_text("{}")
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(EclipseError, match="expected a file in the same folder"):
        open_source(root)
    (root / "state.json").write_text("{}")
    with pytest.raises(EclipseError, match=r"state\.json is damaged"):
        open_source(root)


# ---- outputs


def test_an_output_at_in_or_around_the_input_is_refused(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    for out in (folder, folder / "out", folder / "cat" / "deep" / "out", tmp_path, link / "out"):
        with pytest.raises(EclipseError, match=r"is (inside|equal to|a folder around) the input"):
            check_output(open_source(folder), out)
    pq.write_table(pa.table({"image": [png()]}), tmp_path / "t.parquet")
    with pytest.raises(EclipseError, match="equal to"):
        check_output(open_source(tmp_path / "t.parquet"), tmp_path / "t.parquet")
    check_output(open_source(tmp_path / "t.parquet"), tmp_path / "t2.parquet")
    shard_of(tmp_path / "s-0.tar", member("a.png"))
    with pytest.raises(EclipseError, match="equal to"):
        check_output(open_source(f"{tmp_path}/s-{{0..0}}.tar"), tmp_path / "s-0.tar")
    check_output(open_source(f"{tmp_path}/s-{{0..0}}.tar"), tmp_path / "purified")


def test_what_exists_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "dangling"):
        with pytest.raises(EclipseError, match="exists already"):
            assemble(source, same(source), tmp_path / name, None, frozenset())
    (tmp_path / "empty").mkdir()
    with pytest.raises(EclipseError, match="exists already"):
        check_output(source, tmp_path / "empty", "npz")
    assemble(source, same(source), tmp_path / "empty", None, frozenset())
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "x").read_text() == "mine"
    assert len(open_source(tmp_path / "empty")) == 3


def test_unknown_formats_and_unfitting_names_are_refused(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    with pytest.raises(EclipseError, match="unknown format 'parket'; did you mean 'parquet'"):
        check_output(source, tmp_path / "out", "parket")
    with pytest.raises(EclipseError, match="add --format parquet"):
        check_output(source, tmp_path / "out.parquet")
    with pytest.raises(EclipseError, match="is not a folder that can be written"):
        (tmp_path / "file").write_text("")
        check_output(source, tmp_path / "file" / "out")


@pytest.mark.parametrize("other", ["a.jpg", "a.PNG", "a.webp", "a.png/b.png"])
def test_images_that_would_become_the_same_file_are_refused_first(other: str, tmp_path: Path) -> None:
    for name in ("a.jpeg" if "/" in other else "a.png", other):
        (tmp_path / "in" / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "cat" / name).write_bytes(png())
    source = open_source(tmp_path / "in")
    for format in (None, "folder", "webdataset"):
        with pytest.raises(EclipseError, match=r"would both become cat/a\.png; expected one file of each name"):
            check_output(source, tmp_path / "out", format)
    check_output(source, tmp_path / "out", "npz")


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["A.png", "a.jpg"], True),
        (["caf\u00e9.png", "cafe\u0301.PNG"], True),
        (["a.png", "Notes.txt", "notes.txt"], True),
        (["a.png", "Deep/a.png", "deep"], True),
        (["a.png", "b.png"], False),
    ],
)
def test_names_that_meet_are_refused_first_where_the_disk_folds_them(
    names: list[str], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"text" if name.lower().endswith(("notes.txt", "deep")) else png())
    source = open_source(tmp_path / "in")
    assemble(source, same(source), tmp_path / "kept", None, frozenset())
    assert len(list(tmp_path.glob("kept/**/*.*"))) == len(list(tmp_path.glob("in/**/*.*")))
    monkeypatch.setattr("eclipse.data.layouts.folder.folds_names", lambda path: True)
    with nullcontext() if not refused else pytest.raises(EclipseError, match="would both become"):
        check_output(source, tmp_path / "out")


def test_a_disk_that_folds_names_is_known_by_a_folder_on_it(tmp_path: Path) -> None:
    (tmp_path / "Some").mkdir()
    assert not folds_names(tmp_path / "Some" / "missing" / "out")
    (tmp_path / "sOME").symlink_to("Some")
    assert folds_names(tmp_path / "Some" / "missing" / "out")


@pytest.mark.parametrize("turned", [False, True])
def test_an_archive_of_images_of_two_forms_is_refused_before_the_work(turned: bool, tmp_path: Path) -> None:
    def saved(name: str, image: Image.Image, **options: object) -> None:
        image.save(tmp_path / "in" / name, **options)  # type: ignore[arg-type]

    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    saved("0.png", Image.new("RGB", (4, 6)))
    saved("1.jpg", Image.new("RGB", (6, 4) if turned else (4, 6)), **({"exif": exif} if turned else {}))
    (tmp_path / "in" / "2.png").write_bytes(b"no image, which a purification may skip")
    check_output(open_source(tmp_path / "in"), tmp_path / "out.npz", "npz")
    saved("3.png", Image.new("P", (4, 6)), transparency=0)
    with pytest.raises(EclipseError, match=r"3\.png has an alpha channel") as caught:
        check_output(open_source(tmp_path / "in"), tmp_path / "out.npz", "npz")
    assert_one_sentence(caught.value)
    saved("1.jpg", Image.new("RGB", (4, 6) if turned else (6, 4)), **({"exif": exif} if turned else {}))
    with pytest.raises(EclipseError, match=r"1\.jpg is not as large as the first"):
        check_output(open_source(tmp_path / "in"), tmp_path / "out.npz", "npz")
    check_output(open_source(tmp_path / "in"), tmp_path / "out", "webdataset")
    (tmp_path / "in" / "3.png").unlink()
    check_output(open_source(tmp_path / "in", side=4), tmp_path / "out.npz", "npz")


def test_new_images_of_two_sizes_make_no_archive(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    larger = ((id, png(5) if place else data) for place, (id, data) in enumerate(same(source)))
    with pytest.raises(EclipseError, match=r"is not as large as the first"):
        assemble(source, larger, tmp_path / "out.npz", "npz", frozenset())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_columns_that_a_format_cannot_hold_are_refused_first(tmp_path: Path) -> None:
    images = pa.array([{"bytes": png(), "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": images, "depth": [b"x"], "box": [[1]]}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    for format in ("folder", "webdataset", "npz"):
        with pytest.raises(EclipseError, match=f"'depth' .* no place in the format {format}"):
            check_output(source, tmp_path / "out", format)


def test_images_out_of_step_with_the_source_are_refused(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    pictures = list(same(source))
    for wrong in (pictures[:2], pictures[::-1], [*pictures, ("x", b"")]):
        for format, name in ((None, "o"), ("npz", "o.npz"), ("parquet", "o.parquet"), ("webdataset", "o")):
            with pytest.raises(EclipseError, match="new image"):
                assemble(source, iter(wrong), tmp_path / name, format, frozenset())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_row_without_label_is_named_where_labels_are_needed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(), png()], "label": [3, None]}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    with pytest.raises(EclipseError, match=r"row 1 of .*t\.parquet has no label"):
        load_imageset(source, "training")
    with pytest.raises(EclipseError, match=r"t\.parquet row 1 has no label; the format npz needs one"):
        assemble(source, same(source), tmp_path / "out.npz", "npz", frozenset())
    shard = shard_of(tmp_path / "s.tar", member("a.png"), member("b.png"))
    assert not open_source(shard).has_labels and load_imageset(open_source(shard), "training").labels is None


def test_a_set_of_bad_images_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    with pytest.raises(EclipseError, match=r"all 3 images .* were left out"):
        assemble(source, iter(()), tmp_path / "out", None, frozenset(row.id for row in source.rows()))


def test_a_killed_run_leaves_nothing_that_counts_and_the_next_one_clears_it(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    stale = tmp_path / ".out.partial"
    stale.mkdir()
    (stale / "half.png").write_bytes(b"half")
    assemble(source, same(source), tmp_path / "out", None, frozenset())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_the_output_is_not_there_before_it_is_complete(folder: Path, tmp_path: Path, format: str) -> None:
    source = open_source(folder)
    out = tmp_path / "out"

    def watched() -> Iterator[tuple[str, bytes]]:
        for item in same(source):
            assert not out.exists()
            yield item

    assemble(source, watched(), out, format, frozenset())
    assert out.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_errors_of_the_disk_are_one_sentence_and_leave_nothing(code: int, folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)

    def fails() -> Iterator[tuple[str, bytes]]:
        yield next(same(source))
        raise OSError(code, os.strerror(code))

    with pytest.raises(EclipseError, match=os.strerror(code)) as caught:
        assemble(source, fails(), tmp_path / "out", None, frozenset())
    assert_one_sentence(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_source_that_vanishes_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    source = open_source(folder)
    pictures = list(same(source))
    (folder / "cat" / "notes.txt").write_text("a caption")

    def vanishing() -> Iterator[tuple[str, bytes]]:
        yield pictures[0]
        (folder / "cat" / "notes.txt").unlink()
        yield from pictures[1:]

    with pytest.raises(EclipseError, match=r"cannot put .* together: .*notes\.txt: No such file"):
        assemble(source, vanishing(), tmp_path / "out", None, frozenset())
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="No such file") as caught:
        list(source.rows())
    assert caught.value.filename


# ---- memory


def make_large(kind: str, path: Path, count: int) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    if kind == "npz":
        np.savez(path, images=np.broadcast_to(image, (count, 32, 32, 3)))
        return path.with_suffix(".npz")
    if kind == "eclipse":
        path.write_bytes(pickle.dumps([(image.tobytes() + b"", i % 10) for i in range(count)]))
    if kind == "cifar":
        path.write_bytes(pickle.dumps({"data": np.tile(image.reshape(-1), (count, 1)), "labels": [1] * count}))
    if kind == "webdataset":
        path = path.with_suffix(".tar")
        with tarfile.open(path, "w") as tar:
            for i in range(0, count, 10):
                info = tarfile.TarInfo(f"{i}.png")
                info.size = 10 * image.nbytes
                tar.addfile(info, io.BytesIO(10 * image.tobytes()))
    if kind == "parquet":
        path = path.with_suffix(".parquet")
        data = np.random.default_rng(0).bytes(3072 * count)
        table = pa.table({"image": [data[i * 3072 : (i + 1) * 3072] for i in range(count)]})
        pq.write_table(table, path, row_group_size=count, use_dictionary=False)
    return path


@pytest.mark.parametrize("kind", ["npz", "eclipse", "cifar", "webdataset", "parquet"])
def test_reading_holds_a_small_part_of_the_set(kind: str, tmp_path: Path) -> None:
    count = 5_000  # 15 MB of pixels
    path = make_large(kind, tmp_path / "large", count)
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        source = open_source(path)
        rows = sum(1 for _ in source.rows())
        held = max(tracemalloc.get_traced_memory()[1], 1)
        in_arrow = max(
            pa.total_allocated_bytes() - arrow for row in source.rows() if int(row.id.rpartition("/")[2]) % 500 == 0
        )
    finally:
        tracemalloc.stop()
    assert rows == (count // 10 if kind == "webdataset" else count)
    assert held + in_arrow < 6 * 2**20
