"""Labels: in the order of their numbers, refused by name where they are no class, and read only where they count."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.commands import Command, refusal
from kit.layouts import png_of
from kit.streams import assemble, purify_source
from kit.tiny import CONFIG, one_sentence, tiny_denoiser

from eclipse.data.output import check_output
from eclipse.data.picture import encode_png
from eclipse.data.source import load_imageset, open_source
from eclipse.data.store import Source, comparable_classes
from eclipse.defenses.victim import check_sets
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError
from eclipse.jobs.verify import verify
from eclipse.purification.algorithm import purification
from eclipse.purification.stream import Treatment

CHANGES = [None, "folder", "parquet", "npz", "webdataset"]


def archive(path: Path, labels: list[int], names: list[str] | None = None) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    named = {} if names is None else {"class_names": np.array(names)}
    np.savez(path, images=images, labels=np.array(labels), **named)
    return path


def table(path: Path, labels: list[int] | list[str], names: list[str] | None = None) -> Path:
    import json

    found = pa.table({"image": [png_of(i) for i in range(len(labels))], "label": labels})
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    pq.write_table(found.replace_schema_metadata(meta), path)
    return path


def shards(path: Path, labels: list[object], names: list[str] | None = None) -> Path:
    path.mkdir()
    with tarfile.open(path / "s.tar", "w") as tar:
        for i, label in enumerate(labels):
            for ending, data in {"png": png_of(i), "cls": str(label).encode()}.items():
                if label is not None or ending == "png":
                    member = tarfile.TarInfo(f"{i}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    if names:
        (path / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
    return path


def batches(path: Path, labels: list[int], names: list[str] | None = None) -> Path:
    path.mkdir()
    data = np.zeros((len(labels), 3072), np.uint8)
    (path / "data_batch_1").write_bytes(pickle.dumps({"data": data, "labels": labels}, 2))
    if names:
        (path / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    return path


def pairs(path: Path, labels: list[int], names: list[str] | None = None) -> Path:
    path.write_bytes(pickle.dumps([(bytes(3072), label) for label in labels], 3))
    return path


MAKERS: dict[str, tuple[str, Callable[..., Path]]] = {
    "npz": ("in.npz", archive),
    "table": ("in.parquet", table),
    "shards": ("in", shards),
    "cifar": ("in", batches),
    "pickle": ("in.pkl", pairs),
}
every_maker = pytest.mark.parametrize("kind", MAKERS)


def made(kind: str, folder: Path, labels: list[int], names: list[str] | None = None) -> Source:
    name, make = MAKERS[kind]
    return open_source(make(folder / name, labels, names))


def written(source: Source, out: Path, format: str | None) -> Source:
    same = ((row.id, encode_png(row.picture())) for row in source.rows())
    assemble(source, same, out, format, frozenset())
    return open_source(out)


def out_of(folder: Path, source: Source, format: str | None) -> Path:
    ending = {"parquet": ".parquet", "npz": ".npz"}.get(format or source.layout, "")
    return folder / f"out{ending}"


# ---- the order of numbers


@every_maker
def test_verify_holds_for_twelve_classes_without_names_in_a_folder(kind: str, tmp_path: Path) -> None:
    source = made(kind, tmp_path, [i % 12 for i in range(24)])
    folder = written(source, tmp_path / "out", "folder")
    assert folder.class_names == tuple(map(str, range(12)))
    labels = {row.id.replace("/", "_"): row.label for row in source.rows()}
    assert {Path(row.id).stem: row.label for row in folder.rows()} == labels
    found = verify(folder, source)
    assert found.holds and found.names_checked and found.linf.most == 0


@pytest.mark.parametrize("labels", [[0, 1, 2, 11] * 2, [3, 5, 10, 3], [100, 20]])
def test_numbers_are_found_again_in_the_folders_that_are_named_by_them(labels: list[int], tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "in.npz", labels))
    folder = written(source, tmp_path / "out", "folder")
    found = verify(folder, source)
    assert found.holds and found.unchanged == 1
    wrong = open_source(archive(tmp_path / "wrong.npz", labels[::-1]))
    assert [problem.kind for problem in verify(folder, wrong).problems] == ["labels"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "2"], ("2", "9", "10")),
        (["010", "9", "08"], ("08", "9", "010")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["-1", "10", "9"], ("-1", "10", "9")),
        (["caf\u00e9", "cafz", "bar"], ("bar", "cafz", "caf\u00e9")),
        (["cafe\u0301", "cafz", "bar"], ("bar", "cafz", "cafe\u0301")),
    ],
)
def test_classes_with_names_are_in_the_order_of_numbers_or_letters(
    names: list[str], expected: tuple[str, ...], tmp_path: Path
) -> None:
    for i, name in enumerate(names):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / f"{i}.png").write_bytes(png_of(i))
    assert open_source(tmp_path / "in").class_names == expected
    assert open_source(table(tmp_path / "t.parquet", names)).class_names == expected


def test_class_names_that_a_folder_cannot_spell_are_the_same_classes(tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "in.npz", [0, 1, 2], ["a/b", "c:d", ".e"]))
    folder = written(source, tmp_path / "out", "folder")
    rows = {Path(row.id).name: row for row in folder.rows()}
    for row in source.rows():
        ours, theirs = comparable_classes(source, row, folder, rows[f"{row.id}.png"])
        assert ours == theirs


def test_two_normal_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    sets = []
    for form in ("caf\u00e9", "cafe\u0301"):
        for i, name in enumerate(("cafz", form)):
            (tmp_path / ascii(form) / name).mkdir(parents=True)
            (tmp_path / ascii(form) / name / f"{i}.png").write_bytes(png_of(i))
        sets.append(load_imageset(open_source(tmp_path / ascii(form)), "a test"))
    assert check_sets(*sets) == 2


# ---- labels that are no class


@pytest.mark.parametrize("label", [-2, 3, 2**62])
@every_maker
def test_a_label_that_is_no_class_is_refused_by_name_where_labels_count(kind: str, label: int, tmp_path: Path) -> None:
    source = made(kind, tmp_path, [0, 1, label, 2], None if kind == "pickle" else ["ant", "bee", "cow"])
    if kind == "pickle" and label >= 0:
        return
    name = "s.tar/2.png" if kind == "shards" else " row 2"
    with pytest.raises(EclipseError, match=rf"{name} is of class {label}; expected .* from 0 on, or -1") as caught:
        load_imageset(source, "a test")
    one_sentence(caught.value)
    for format in CHANGES[1:]:
        if format != source.layout and (format, kind) != ("webdataset", "shards"):
            if kind == "table" and format == "parquet":
                continue
            with pytest.raises(EclipseError, match=f"{name} is of class {label}"):
                check_output(source, out_of(tmp_path, source, format), format)


@pytest.mark.parametrize("format", ["folder", "npz"])
@every_maker
def test_no_class_is_made_of_minus_one(kind: str, format: str, tmp_path: Path) -> None:
    source = made(kind, tmp_path, [0, 1, -1, -1], None if kind == "pickle" else ["ant", "bee", "cow"])
    assert [row.label for row in source.labelled()] == [0, 1, None, None]
    with pytest.raises(EclipseError, match=r"row 2 of .* has no label"):
        load_imageset(source, "a test")
    if format != source.layout:
        with pytest.raises(EclipseError, match=f"2.* has no label; the format {format} needs one for each"):
            check_output(source, out_of(tmp_path, source, format), format)


@every_maker
def test_purify_needs_no_labels_and_keeps_them_as_they_are(kind: str, tmp_path: Path) -> None:
    source = made(kind, tmp_path, [0, -1, -7, 2**40], None if kind == "pickle" else ["ant", "bee", "cow"])
    out = out_of(tmp_path, source, None)
    job = Treatment(purification(FAST, CONFIG, steps=1), seed=0, device="cpu")
    purify_source(source, tiny_denoiser(), out, job)
    assert [row.label for row in open_source(out).rows()] == [row.label for row in source.rows()] == [0, -1, -7, 2**40]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["cat", "dog"], "0.cls holds b'cat'; expected the number"),
        (["1_0", 1], "0.cls holds b'1_0'; expected the number"),
        (["1" + " " * 70 + "2", 1], "0.cls holds b'1 +'; expected the number"),
        ([0, None], "1 of the 2 images .* have no KEY.cls"),
    ],
)
def test_classes_of_a_shard_that_are_no_numbers_stop_only_what_needs_them(
    labels: list[object], problem: str, tmp_path: Path
) -> None:
    source = open_source(shards(tmp_path / "in", labels))
    written(source, tmp_path / "same", None)
    with tarfile.open(tmp_path / "in" / "s.tar") as old, tarfile.open(tmp_path / "same" / "s.tar") as new:
        assert [member.name for member in new] == [member.name for member in old]
    with pytest.raises(EclipseError, match=f"EM needs labels, and .*{problem}") as caught:
        load_imageset(source, "a test").require_labels("EM")
    one_sentence(caught.value)
    for format in ("folder", "parquet", "npz"):
        with pytest.raises(EclipseError, match=rf"{problem}.* labels would get lost in the format {format}"):
            check_output(source, out_of(tmp_path, source, format), format)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [[1, 0], [0, 1]], ["a", "b"]])
def test_labels_of_an_archive_that_are_no_numbers_stop_only_what_needs_them(labels: list, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array(labels))
    source = open_source(tmp_path / "in.npz")
    assert np.load(written(source, tmp_path / "out.npz", None).root)["labels"].tolist() == labels
    with pytest.raises(EclipseError, match=r"EM needs labels, and 'labels' in .*in\.npz is .*; expected integers"):
        load_imageset(source, "a test").require_labels("EM")
    with pytest.raises(EclipseError, match="labels would get lost in the format folder"):
        check_output(source, tmp_path / "out", "folder")


# ---- names of classes


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "a\rb"])
def test_a_class_name_that_classnames_cannot_hold_is_refused(name: str, tmp_path: Path, command: Command) -> None:
    source = open_source(archive(tmp_path / "in.npz", [0, 1, 2], [name, "cat", "dog"]))
    with pytest.raises(EclipseError, match="cannot hold; expected letters and digits in one line") as caught:
        check_output(source, tmp_path / "out", "webdataset")
    one_sentence(caught.value)
    said = command("poison", tmp_path / "in.npz", "--attack", "urp", "--format", "webdataset", "--out", tmp_path / "o")
    assert "cannot hold" in refusal(said) and not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["a\x0bb", "a\u2028b", "a\x85b", " a ", "", "a,b"])
@pytest.mark.parametrize("format", ["parquet", "npz", "webdataset"])
def test_other_class_names_come_back(name: str, format: str, tmp_path: Path) -> None:
    for names in ([name, "cat"], ["cat", name]):
        place = tmp_path / str(names.index(name))
        place.mkdir()
        make, ending = (table, ".parquet") if format == "npz" else (archive, ".npz")
        source = open_source(make(place / f"in{ending}", [0, 1], names))
        again = written(source, out_of(place / "made", source, format), format)
        assert again.class_names == tuple(names)


@pytest.mark.parametrize("names", [["Cat", "cat"], ["caf\u00e9", "cafe\u0301"], ["a?", "a*"], ["x" * 300, "y"]])
def test_class_folders_that_would_meet_on_some_disk_are_refused(names: list[str], tmp_path: Path) -> None:
    source = open_source(archive(tmp_path / "in.npz", [0, 1], names))
    with pytest.raises(EclipseError, match=r"would share a folder|cannot hold"):
        check_output(source, tmp_path / "out", "folder")


def test_rows_that_would_meet_in_another_format_are_refused_first(tmp_path: Path) -> None:
    for path in ("c/a.b.png", "c/a_b.png", "d/x.png"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(png_of(0))
    with pytest.raises(EclipseError, match=r"a_b\.png and .*a\.b\.png would share the name"):
        check_output(open_source(tmp_path / "in"), tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a/b_c.png", "a_b/c.png", "A/b_c.png"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"png"))
    with pytest.raises(EclipseError, match=r"would share the name"):
        check_output(open_source(tmp_path / "s.tar"), tmp_path / "out", "folder")
