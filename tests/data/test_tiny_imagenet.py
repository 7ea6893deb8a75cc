"""Tiny-ImageNet as it is published: classes of ``val`` from its table, and tables with the names of a purified copy."""

import json
from pathlib import Path

import pytest
from kit.commands import Command, refusal
from kit.tiny import some_images
from PIL import Image

from eclipse.data.source import load_imageset, open_source
from eclipse.errors import EclipseError

WNIDS = ("n01443537", "n01629819", "n02226429")
BOX = "\t0\t10\t63\t58\n"


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(some_images(1, 16, 16, seed)[0].transpose(1, 2, 0)).save(path, quality=95)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    for c, wnid in enumerate(WNIDS):
        for i in range(4):
            save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * c + i)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{wnid}_{i}.JPEG{BOX}" for i in range(4)))
    lines = []
    for i in range(6):
        save(root / "val" / "images" / f"val_{i}.JPEG", 100 + i)
        save(root / "test" / "images" / f"test_{i}.JPEG", 200 + i)
        lines.append(f"val_{i}.JPEG\t{WNIDS[-i % 3]}{BOX}")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    return root


def test_val_has_the_classes_of_its_table_with_the_numbers_of_train(tiny: Path) -> None:
    train, val = (open_source(tiny / name) for name in ("train", "val"))
    assert train.class_names == val.class_names == WNIDS
    assert load_imageset(train, "a test").require_labels("a test").tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert load_imageset(val, "a test").require_labels("a test").tolist() == [0, 2, 1, 0, 2, 1]
    assert [row.label for row in val.outline()] == [0, 2, 1, 0, 2, 1]
    assert load_imageset(open_source(f"{tiny / 'val'}[2:4]"), "a test").require_labels("a test").tolist() == [1, 0]


def test_the_root_is_refused_and_a_network_is_trained_on_train_and_measured_on_val(
    tiny: Path, command: Command, tmp_path: Path
) -> None:
    options = ("--arch", "small", "--epochs", 1, "--out", tmp_path / "run")
    sentence = refusal(command("train", tiny, "--test", tiny / "val", *options))
    assert "holds several splits (test, train, val); expected one of them: add its name to the path" in sentence
    said = command("train", tiny / "train", "--test", tiny / "val", *options)
    assert said.code == 0, said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["classes"] == 3 and result["counts"]["test images"] == 6
    sentence = refusal(command("train", tiny / "train", "--test", tiny / "test", *options[:-1], tmp_path / "other"))
    assert "the class 'n01443537' where the test set has 'images'" in sentence


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_poisoned_copy_has_its_classes_and_the_new_names_in_its_tables(
    tiny: Path, command: Command, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    said = command("poison", tiny / name, "--attack", "ops", "--out", out)
    assert said.code == 0 and "named with endings" not in said.out + said.err, said
    assert command("verify", out, "--clean", tiny / name).code == 0
    clean, poisoned = (load_imageset(open_source(place), "a test") for place in (tiny / name, out))
    assert clean.class_names == poisoned.class_names
    assert clean.require_labels("a test").tolist() == poisoned.require_labels("a test").tolist()
    tables = sorted(path.relative_to(out) for path in out.rglob("*.txt"))
    assert len(tables) == {"train": 3, "val": 1}[name]
    for table in tables:
        assert (out / table).read_text() == (tiny / name / table).read_text().replace(".JPEG", ".png")


def test_a_table_keeps_lines_that_name_no_image_and_loses_those_of_images_that_are_left_out(
    tiny: Path, command: Command, tmp_path: Path, denoiser_folder: Path
) -> None:
    table = tiny / "val" / "val_annotations.txt"
    table.write_bytes(table.read_bytes() + b"gone.JPEG\tn01443537\n\n")
    (tiny / "val" / "images" / "val_1.JPEG").write_bytes(b"\xff\xd8\xff damaged")
    said = command("purify", tiny / "val", "--denoiser", denoiser_folder, "--skip-bad", "--out", tmp_path / "out")
    assert said.code == 0, said
    lines = (tmp_path / "out" / "val_annotations.txt").read_text().splitlines()
    assert [line.partition("\t")[0] for line in lines] == [
        *("val_0.png", "val_2.png", "val_3.png", "val_4.png", "val_5.png", "gone.JPEG", "")
    ]
    assert open_source(tmp_path / "out").class_names == WNIDS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("val_2", "val_9"), r"val_2.JPEG has no line in .*val_annotations.txt"),
        (lambda text: text.replace(f"val_2.JPEG\t{WNIDS[1]}{BOX}", "val_2.JPEG\n"), "line 3 has no name and class"),
        (lambda text: text + "val_2.JPEG\tn01443537\n", "line 7 has another class than before"),
        (lambda text: "\udcff" + text, "cannot be read as lines of a name, a tab and a class"),
    ],
)
def test_a_table_that_does_not_tell_every_class_is_named_where_labels_count_and_not_before(
    tiny: Path, command: Command, tmp_path: Path, denoiser_folder: Path, change: object, said: str
) -> None:
    table = tiny / "val" / "val_annotations.txt"
    table.write_bytes(change(table.read_text()).encode(errors="surrogateescape"))  # type: ignore[operator]
    with pytest.raises(EclipseError, match=said):
        load_imageset(open_source(tiny / "val"), "a test").require_labels("measuring accuracy")
    assert command("purify", tiny / "val", "--denoiser", denoiser_folder, "--out", tmp_path / "out").code == 0
    sentence = refusal(command("purify", tiny / "val", "--denoiser", denoiser_folder, "--out", tmp_path / "out.npz"))
    assert "labels would get lost in the format npz" in sentence


def test_a_val_that_was_sorted_into_folders_of_classes_is_read_by_its_folders(tiny: Path) -> None:
    for i, wnid in enumerate(WNIDS):
        (tiny / "val" / wnid / "images").mkdir(parents=True)
        (tiny / "val" / "images" / f"val_{i}.JPEG").rename(tiny / "val" / wnid / "images" / f"val_{i}.JPEG")
    for path in (tiny / "val" / "images").iterdir():
        path.unlink()
    assert load_imageset(open_source(tiny / "val"), "a test").require_labels("a test").tolist() == [0, 1, 2]
