"""What people bring that is no data set yet, or not the one that they mean: told, or passed over."""

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.commands import Command, refusal, write_images
from kit.layouts import png_of
from kit.streams import assemble
from kit.tiny import one_sentence, tiny_denoiser

from eclipse.data.picture import encode_png
from eclipse.data.source import load_imageset, open_source
from eclipse.diffusion.checkpoint import save_denoiser
from eclipse.errors import EclipseError


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("ending", ["zip", "gztar", "bztar", "xztar"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_packed_data_set_is_to_be_unpacked(ending: str, inside: bool, tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "in", 2)
    (tmp_path / "packed").mkdir()
    made = Path(shutil.make_archive(str(tmp_path / "packed" / "photos"), ending, tmp_path / "in"))
    said = refusal(command("poison", made.parent if inside else made, "--attack", "urp", "--out", tmp_path / "out"))
    assert made.name in said and "unpack" in said


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: b"\x28\xb5\x2f\xfd" + data])
@pytest.mark.parametrize("name", ["s.tar", "x.pkl", "data.parquet", "train"])
def test_a_packed_file_is_known_by_its_content(pack: Callable[[bytes], bytes], name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pack(b"content" * 100))
    with pytest.raises(EclipseError, match=r"is packed; expected .* unpack it") as caught:
        open_source(tmp_path / name)
    one_sentence(caught.value)


@pytest.mark.parametrize("below", ["./", "", "part/"])
def test_what_a_mac_packs_beside_each_file_is_passed_over(below: str, tmp_path: Path) -> None:
    members = {}
    for i in range(3):
        for ending, data in {"png": png_of(i), "cls": b"%d" % (i % 2)}.items():
            members[f"{below}._{i}.{ending}"] = b"\0\5\x16\7" + bytes(160)
            members[f"{below}{i}.{ending}"] = data
    source = open_source(tar(tmp_path / "in.tar", members))
    assert [row.label for row in source.labelled()] == [0, 1, 0]
    same = ((row.id, encode_png(row.picture())) for row in source.rows())
    assemble(source, same, tmp_path / "out.tar", None, frozenset())
    assert [row.label for row in open_source(tmp_path / "out.tar").rows()] == [0, 1, 0]


def test_two_classes_of_one_name_in_two_forms_are_told_apart(tmp_path: Path) -> None:
    for i, name in enumerate(("caf\u00e9", "cafe\u0301")):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / f"{i}.png").write_bytes(png_of(i))
    with pytest.raises(EclipseError, match=r"two Unicode normal forms, 'cafe\\u0301' and 'caf\\xe9'") as caught:
        load_imageset(open_source(tmp_path / "in"), "a test")
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("paths", "noted"),
    [
        (["cat/2023/x.png", "cat/y.png", "dog/z.png"], 1),
        (["cat/2023/x.png", "dog/2022/a/z.png", "dog/b/z.png"], 1),
        (["cat/x.png", "dog/z.png"], 0),
        (["cat/2023/x.png", "y.png"], 0),
    ],
)
def test_nested_folders_are_noted_once(paths: list[str], noted: int, tmp_path: Path, command: Command) -> None:
    for i, path in enumerate(paths):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(png_of(i))
    notes = open_source(tmp_path / "in").notes
    assert len(notes) == noted
    if noted:
        assert "'cat', the first folder" in one_sentence(notes[0]) and "datasets would take '2023'" in notes[0]
    save_denoiser(tiny_denoiser(), tmp_path / "denoiser")
    said = command("purify", tmp_path / "in", "--denoiser", tmp_path / "denoiser", "--out", tmp_path / "o", "--dry-run")
    assert (said.out + said.err).count("the first folder") == noted


def test_images_beside_the_folders_of_classes_are_named(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 4)
    (tmp_path / "in" / "top.png").write_bytes(png_of(0))
    source = open_source(f"{tmp_path}/in[1:]")
    assert not source.has_labels and source.unlabelled.startswith(f"{tmp_path}/in/top.png lies in no folder of a class")


def test_a_denoiser_for_other_channels_is_refused_before_the_work(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "in", 2)
    save_denoiser(tiny_denoiser(options={"widths": [8, 12], "blocks": [1, 1], "channels": 1}), tmp_path / "denoiser")
    said = command("purify", tmp_path / "in", "--denoiser", tmp_path / "denoiser", "--out", tmp_path / "o", "--dry-run")
    assert "does not take color images" in refusal(said) and "three channels" in said.err
