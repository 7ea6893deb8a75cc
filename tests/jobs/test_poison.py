"""`eclipse poison` and `eclipse attacks`: the attack's own pixels in every layout, and other people's poisons."""

import io
import json
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kit.commands import Command, files, refusal, write_images
from kit.kills import manifest
from kit.layouts import LAYOUTS, tree_bytes
from kit.tiny import some_images
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from eclipse.attacks import ATTACKS, make_attack
from eclipse.attacks.crafting import cost
from eclipse.attacks.crafting.perturbation import bound
from eclipse.classifiers.pgd import scaled_radius
from eclipse.cli import show
from eclipse.data.changes import measure
from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, load_pictures, open_source
from eclipse.jobs.poison import poison_job
from eclipse.parameters import parameters
from eclipse.runs import manifest as manifests
from eclipse.runs.state import StageStep, Work

pytestmark = pytest.mark.usefixtures("plugin")  # its attack "fake" costs next to nothing


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("drawn") / "images", 20, side=16)


@pytest.fixture
def place(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, in which commands are given, with images in two classes."""
    shutil.copytree(drawn, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(spec: object) -> ImageSet:
    return load_imageset(open_source(str(spec)), "a test")


# The attack's own pixels, in every layout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gets_the_pixels_of_the_attack_and_keeps_its_rows(
    command: Command, tmp_path: Path, layout: str
) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "in"))
    clean = loaded(source.spec)
    out = tmp_path / "out" / ("in" if source.store.is_folder else f"in{(source.root or tmp_path).suffix}")
    said = command("poison", source.spec, "--attack", "lsp", "--seed", 4, "--out", out)
    assert said.code == 0, said
    poisoned, expected = loaded(out), make_attack("lsp").poison(clean, seed=4)
    np.testing.assert_array_equal(poisoned.images, expected.images)
    assert poisoned.ids == clean.ids and poisoned.class_names == clean.class_names
    np.testing.assert_array_equal(poisoned.require_labels("test"), clean.require_labels("test"))
    assert open_source(out).layout == source.layout


@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_every_format_holds_the_same_images(place: Path, command: Command, format: str) -> None:
    name = {"parquet": "out.parquet", "npz": "out.npz"}.get(format, "out")
    assert command("poison", "images", "--attack", "fake", "--out", name, "--format", format).code == 0
    assert open_source(name).layout == format
    np.testing.assert_array_equal(loaded(name).images, make_attack("fake").poison(loaded("images"), seed=0).images)
    assert manifest(place / name)["settings"]["output"]["format"] == format


def test_a_slice_of_a_table_is_poisoned_and_keeps_its_columns(place: Path, command: Command) -> None:
    images = [path.read_bytes() for path in sorted(Path("images").rglob("*.png"))]
    captions = [f"no {i}" for i in range(20)]
    pq.write_table(pa.table({"photo": images, "kind": [0, 1] * 10, "caption": captions}), "data.parquet")
    columns = ["--image-column", "photo", "--label-column", "kind"]
    said = command("poison", "data.parquet[5:15]", "--attack", "urp", "--out", "out.parquet", *columns)
    assert said.code == 0, said
    table = pq.read_table("out.parquet")
    assert table.column_names == ["photo", "kind", "caption"]
    assert table["caption"].to_pylist() == captions[5:15] and table["kind"].to_pylist() == ([0, 1] * 10)[5:15]
    assert set(table["photo"].to_pylist()).isdisjoint(images)


def test_lengths_that_differ_are_told_as_they_are_given(place: Path, command: Command) -> None:
    asked = ("poison", "images", "--attack", "urp", "--out", "out", "--set")
    assert command(*asked, "eps=4").code == 0
    assert "was made with attack radius = 4/255 and this run asks for 2/255" in refusal(command(*asked, "eps=2"))


def write_mode(path: Path, mode: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(60, 200, (16, 16, len(mode)), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(path)


def test_alpha_and_gray_are_kept_and_so_is_the_bound(place: Path, command: Command) -> None:
    for i, mode in enumerate(["RGB", "RGBA", "L", "LA"] * 3):
        write_mode(Path("mixed", f"class{i % 2}", f"{i:02d}.png"), mode, i)
    assert command("poison", "mixed", "--attack", "ar", "--out", "out").code == 0
    for path in sorted(Path("mixed").rglob("*.png")):
        clean, poisoned = Image.open(path), Image.open(Path("out", *path.parts[1:]))
        assert poisoned.mode == clean.mode
        before, after = (np.asarray(image, np.int16).reshape(256, -1) for image in (clean, poisoned))
        colors = len(clean.mode) - ("A" in clean.mode)
        assert np.abs(after - before)[:, :colors].max() > 0
        np.testing.assert_array_equal(after[:, colors:], before[:, colors:])
    sizes, told = measure(loaded("mixed").images, loaded("out").images, "L2"), manifest(place / "out")["radius"]
    assert told["measured"] == {"max": sizes.max(), "median": np.median(sizes)}
    assert sizes.max() < bound("L2", 1.0, (3, 16, 16)) and np.median(sizes) < 0.9 * told["asked"]


def test_gray_images_are_poisoned_in_their_one_plane(place: Path, command: Command) -> None:
    for i in range(12):
        write_mode(Path("gray", f"class{i % 2}", f"{i:02d}.png"), "L", i)
    assert command("poison", "gray", "--attack", "ar", "--out", "out").code == 0
    clean = loaded("gray")
    expected = make_attack("ar").poison(clean.with_images(clean.images[:, :1].copy()), seed=0).images
    np.testing.assert_array_equal(loaded("out").images, expected.repeat(3, axis=1))
    measured = manifest(place / "out")["radius"]
    assert measured["asked"] == pytest.approx(scaled_radius("L2", 1.0, (1, 16, 16)))
    assert measured["measured"]["median"] == pytest.approx(measured["asked"], rel=0.05)


LITTLE = {"recipe.epochs": 3, "steps": 2, "max_rounds": 2, "epochs": 2, "checkpoints": 2, "visits": 1}


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_is_carried_out_and_stands_its_verification(place: Path, command: Command, name: str) -> None:
    known = parameters(make_attack(name, scale="small"))
    settings = [part for key, value in LITTLE.items() if key in known for part in ("--set", f"{key}={value}")]
    said = command("poison", "images", "--attack", name, "--scale", "small", "--out", "out", *settings)
    assert said.code == 0, said
    done, verified = manifest(place / "out"), command("verify", "out", "--clean", "images")
    assert verified.code == 0 and "labels             kept" in verified.out, verified
    assert done["counts"]["poisoned"] == 20 and done["counts"]["changed"] > 10
    assert (done["surrogate"] is None) == ("expected cost" not in said.out)


# Settings, cost and manifest


def test_the_manifest_tells_what_was_done(place: Path, command: Command) -> None:
    changes = ["--set", "eps=4", "--set", "step=0.8", "--set", "recipe.epochs=2"]
    said = command("poison", "images", "--attack", "fake", "--scale", "small", "--seed", 3, "--out", "out", *changes)
    assert said.code == 0, said
    done = manifest(place / "out")
    attack = make_attack("fake", scale="small", radius=4 / 255, step=0.8 / 255)
    assert done["status"] == "complete" and done["command"].startswith("eclipse poison images --attack fake")
    settings = done["settings"]
    assert settings["input"] == {"spec": "images", "layout": "folder", "images": 20}
    assert settings["output"] == {"path": "out", "format": "folder"} and settings["import"] is None
    assert settings["seed"] == 3 and settings["device"]["type"] == "cpu"
    told = settings["attack"]
    assert [told[name] for name in ("name", "scale", "norm", "radius")] == ["fake", "small", "Linf", 4 / 255]
    assert told["fields"]["step"] == attack.step and told["fields"]["draws"] is None  # type: ignore[attr-defined]
    assert told["fields"]["recipe"]["epochs"] == 2 and told["fields"]["recipe"]["milestones"] == []
    assert done["surrogate"] == {"arch": "small", "parameters": 219_482}
    sizes = measure(loaded("images").images, loaded("out").images, "Linf")
    assert done["radius"] == {
        "norm": "Linf",
        "asked": 4 / 255,
        "measured": {"max": sizes.max(), "median": np.median(sizes)},
    }
    assert sizes.max() == pytest.approx(4 / 255)
    assert done["counts"] == {"input": 20, "poisoned": 20, "changed": 20}
    assert set(done["seconds"]) == {"crafting", "writing"} and done["seconds"]["crafting"] > 0
    assert done["versions"]["torch"] and done["started"] <= done["finished"]
    for name in ("input fingerprint", "output fingerprint"):
        assert re.fullmatch("[0-9a-f]{64}", done[name])
    assert sorted(path.name for path in place.iterdir()) == ["images", "out", "out.run.json"]


def test_an_attack_without_a_bound_says_so(place: Path, command: Command) -> None:
    said = command("poison", "images", "--attack", "cuda", "--out", "out")
    assert said.code == 0 and "(unbounded)" in said.out
    done = json.loads(Path("out.run.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert done["settings"]["attack"]["radius"] is None and done["radius"]["asked"] is None
    assert done["radius"]["measured"]["max"] > 8 / 255


def test_people_read_and_give_lengths_in_levels(place: Path, command: Command) -> None:
    said = command("poison", "images", "--attack", "fake", "--out", "out", "--set", "eps=4")
    assert re.search(r"parameters +eps 4, step 2\.5, steps 3, draws none, arch small, recipe\.epochs 3", said.out)
    assert "Linf 4 levels at most, 4 levels in the median (radius 4 levels)" in said.out
    assert "20 of 20 images in out" in said.out and "eclipse verify out --clean images" in said.out


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("eps=4", "radius", 4 / 255),
        ("radius=4", "radius", 4 / 255),
        ("eps=0.5", "radius", 0.5 / 255),
        ("steps=7", "steps", 7),
        ("draws=2", "draws", 2),
        ("draws=None", "draws", None),
        ("arch=resnet18", "arch", "resnet18"),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(place: Path, setting: str, field: str, value: object) -> None:
    job = poison_job(str(place / "images"), place / "out", attack="fake", settings=(setting,))
    assert job.settings["attack"]["fields"][field] == value


def test_parts_of_a_recipe_are_set_one_by_one() -> None:
    settings = ["recipe.lr=0.5", "recipe.nesterov=true", "recipe.clip=5", "recipe.schedule=triangle"]
    recipe = ATTACKS.asked("fake", "small", settings).recipe
    assert (recipe.lr, recipe.nesterov, recipe.clip, recipe.schedule) == (0.5, True, 5.0, "triangle")
    assert recipe.epochs == make_attack("fake", scale="small").recipe.epochs  # type: ignore[attr-defined]


def test_the_cost_is_told_before_anything_is_done(place: Path, command: Command) -> None:
    before = tree_bytes(place), files(place)
    said = command("poison", "images", "--attack", "fake", "--out", "new/out", "--dry-run")
    assert said.code == 0 and said.err == "" and "done" not in said.out
    assert re.search(r"surrogate +small, 219,482 parameters", said.out)
    assert re.search(r"passes +at most 6 an image, 120 in all", said.out)
    assert re.search(r"time +less than a minute at [\d,]+ passes a second, measured on two batches", said.out)
    assert "note" not in said.out
    assert (tree_bytes(place), files(place)) == before


def test_an_attack_without_a_network_has_no_cost(place: Path, command: Command) -> None:
    said = command("poison", "images", "--attack", "urp", "--out", "out", "--dry-run")
    assert said.code == 0 and "cost" not in said.out and "eps 8" in said.out


def test_a_cost_that_is_too_high_for_a_processor_names_the_small_scale(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "passes_per_s", lambda *args: 1.0)
    long = ["poison", "images", "--attack", "fake", "--out", "out", "--dry-run"]
    said = command(*long, "--set", "steps=88")
    assert "about 30 minutes at 1 passes" in said.out and "note: " in said.out and "--scale small" in said.out
    assert "--scale small is made" not in command(*long, "--set", "steps=86").out
    said = command(*long, "--set", "steps=1000", "--scale", "small")
    assert "about 6 hours" in said.out and "--scale small is made" not in said.out
    assert "note: scale small is not the published recipe: it has its own recipe" in said.out


def test_a_speed_is_that_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 10.25])
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    images = ImageSet.from_arrays(some_images(300, 16, 16), np.arange(300) % 2)
    found = cost.expected_cost(make_attack("fake"), images, Work())
    assert found is not None and found.images_per_s == 128 / 0.25, "the second batch counts"
    assert found.minutes == pytest.approx(6 * 300 / 512 / 60)


# Bad input: each is made in the user's folder and refused in the words given


def flat() -> None:
    Path("flat").mkdir()
    for path in Path("images").rglob("*.png"):
        shutil.copy(path, "flat")


def one_class() -> None:
    shutil.copytree("images/class0", "one/class0")


def few() -> None:
    write_images(Path("few"), 4, side=16)


def sizes() -> None:
    write_images(Path("sizes"), 4, side=16)
    Image.new("RGB", (20, 17)).save("sizes/class1/003.png")


def tiny() -> None:
    write_images(Path("tiny"), 8, side=8)


def transparent() -> None:
    for i in range(8):
        write_mode(Path("transparent", f"class{i % 2}", f"{i}.png"), "RGBA", i)


def numbered(count: int = 20, folder: str = "numbered") -> None:
    Path(folder).mkdir()
    for i in range(count):
        Image.new("RGB", (16, 16)).save(f"{folder}/{i}.png")


def missing() -> None:
    numbered()
    Path("numbered", "7.png").unlink()


def surplus() -> None:
    numbered(21)


def twice() -> None:
    numbered()
    shutil.copy("numbered/7.png", "numbered/007.png")


def stray() -> None:
    numbered()
    shutil.copy("numbered/7.png", "numbered/cover.png")


def renamed(*names: str) -> Callable[[], None]:
    """A folder of as many images as the user has, with these names first and numbers after them."""

    def prepare() -> None:
        numbered()
        for i, name in enumerate(names):
            Path("numbered", f"{i}.png").rename(Path("numbered", name))

    return prepare


def without_order() -> None:
    """A clean folder whose text order is not that of its numbers, and rows for it."""
    numbered(folder="clean")
    np.savez("rows.npz", images=some_images(20, 16, 16))
    np.save("noise.npy", LEVELS)


def stems() -> None:
    Path("stems").mkdir()
    for path in Path("images").rglob("*.png"):
        shutil.copy(path, "stems")


def pickled() -> None:
    Path("noise.pkl").write_bytes(pickle.dumps(LEVELS))


def other_labels() -> None:
    np.savez("other.npz", images=some_images(20, 16, 16), labels=[0] * 20)


def other_size() -> None:
    np.savez("other.npz", images=some_images(20, 12, 16), labels=open_labels())


def open_labels() -> NDArray[np.int64]:
    return loaded("images").require_labels("test")


def short() -> None:
    np.savez("short.npz", images=some_images(19, 16, 16))


def saved(values: NDArray[Any]) -> Callable[[], None]:
    return lambda: np.save("noise.npy", values)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path("ran"),)


def tensor_with_code() -> None:
    torch.save(Bomb(), "code.pt")


def array_with_code() -> None:
    np.save("code.npy", np.array([Bomb()], object), allow_pickle=True)


def archive_with_code() -> None:
    np.savez("code.npz", noise=np.array([Bomb()], object))


def two_arrays() -> None:
    np.savez("two.npz", a=np.zeros(3), b=np.zeros(3))


LEVELS = np.random.default_rng(0).integers(-8, 9, (20, 3, 16, 16)).astype(np.float32)

PREPARE: dict[str, Callable[[], object]] = {
    "flat": flat,
    "one": one_class,
    "few": few,
    "sizes": sizes,
    "tiny": tiny,
    "transparent": transparent,
    "missing": missing,
    "surplus": surplus,
    "twice": twice,
    "stray": stray,
    "named": renamed(*(f"{letter}.png" for letter in "abcdefghijklmnopqrst")),
    "two ways": renamed("clean_0.png", "clean_1.png"),
    "without order": without_order,
    "stems": stems,
    "pickled": pickled,
    "images as noise": saved(some_images(20, 16, 16) / np.float32(255)),
    "large images as noise": saved(some_images(20, 16, 16).astype(np.float32)),
    "other labels": other_labels,
    "other size": other_size,
    "short": short,
    "noise": saved(LEVELS),
    "noise of 19": saved(LEVELS[:19]),
    "noise of 12x16": saved(LEVELS[:, :, :12]),
    "noise without sign": saved(LEVELS.astype(np.uint8)),
    "complex noise": saved(LEVELS.astype(np.complex64)),
    "noise with nan": saved(np.where(LEVELS == 3, np.nan, LEVELS)),
    "faint noise": saved(LEVELS / 255 / 20),
    "tensor with code": tensor_with_code,
    "array with code": array_with_code,
    "archive with code": archive_with_code,
    "two arrays": two_arrays,
}

CASES = r"""
$ eclipse poison images --out out
give either --attack or --import .*; neither was given
$ eclipse poison images --attack urp --import x --out out
give either --attack or --import .*; both were given
$ eclipse poison imags --attack urp --out out
no such path: 'imags'; expected a folder of images
$ eclipse poison images --attack upr --out out
unknown attack 'upr'; did you mean 'urp'\?
$ eclipse poison images --attack urp --scale smal --out out
unknown scale 'smal'; did you mean 'small'\?
$ eclipse poison images --attack urp --out out --set esp=4
unknown parameter of urp 'esp'; did you mean 'eps'\?
$ eclipse poison images --attack fake --out out --set stpes=4
unknown parameter of fake 'stpes'; did you mean 'steps'\?
$ eclipse poison images --attack fake --out out --set recipe.epoch=4
unknown parameter of fake 'recipe\.epoch'; did you mean 'recipe\.epochs'\?
$ eclipse poison images --attack fake --out out --set steps
--set 'steps'; expected a parameter and its value, such as eps=4
$ eclipse poison images --attack fake --out out --set steps=1.5
--set steps=1\.5; expected a whole number for 'steps', such as 3
$ eclipse poison images --attack fake --out out --set eps=much
--set eps=much; expected a number for 'eps', such as 8
$ eclipse poison images --attack fake --out out --set eps=nan
--set eps=nan; expected a number for 'eps', such as 8
$ eclipse poison images --attack fake --out out --set draws=x
--set draws=x; expected a whole number or none for 'draws', such as none
$ eclipse poison images --attack urp --out out --set gaussian=perhaps
--set gaussian=perhaps; expected true or false for 'gaussian', such as false
$ eclipse poison images --attack fake --out out --set recipe.milestones=0.5
'recipe\.milestones' is not a single value; leave it out
$ eclipse poison images --attack ar --out out --set coefficients=1
'coefficients' is not a single value; leave it out
$ eclipse poison images --attack fake --out out --set eps=4 --set radius=5
--set radius=5, but 'eps' was set before; give it once
$ eclipse poison images --attack fake --out out --set arch=resnet-18
unknown classifier 'resnet-18'; did you mean 'resnet18'\?
$ eclipse poison images --attack urp --out out --set eps=0
URP radius of 0 levels; expected more than 0 and at most 255, such as 8
$ eclipse poison images --attack urp --out out --set eps=256
URP radius of 256 levels; expected more than 0 and at most 255, such as 8
$ eclipse poison images --attack lsp --out out --set eps=256
lsp radius 256, an L2 norm .*; expected at most 55\.4, .* such as 1\.3
$ eclipse poison images --attack ops --out out --set eps=0
OPS radius of 0 pixels; expected a whole number, 1 or more
$ eclipse poison images --attack cuda --out out --set eps=8
unknown parameter of cuda 'eps'; known: blur, kernel
$ eclipse poison images --attack fake --out out --device gpu
device 'gpu' is not one that torch knows; expected auto, cpu or cuda
$ eclipse poison images --attack fake --out out --format parqet
unknown format 'parqet'; did you mean 'parquet'\?

$ [flat] eclipse poison flat --attack urp --out out
URP needs labels, and flat/.* lies in no folder of a class; expected each image in one
$ [flat] eclipse poison flat --attack fake --out out
Fake needs labels, and flat/.* lies in no folder of a class; expected each image in one
$ [one] eclipse poison one --attack urp --out out
URP of a set with 1 class; expected at least 2
$ [few] eclipse poison few --attack fake --out out
class class0 has 2 images; Fake needs at least 3 of each class: add some or leave it out
$ [sizes] eclipse poison sizes --attack fake --out out
sizes/class1/003\.png is 20x17 and sizes/class0/000\.png is 16x16; expected one size for poisoning
$ [tiny] eclipse poison tiny --attack fake --out out
images of 8 pixels a side; this network takes 16 and up: enlarge them
$ [tiny] eclipse poison tiny --attack lsp --set patch=9 --out out
an LSP patch of 9 pixels does not fit images of 8x8; expected 1 to 8
$ [transparent] eclipse poison transparent --attack urp --out out.npz --format npz
has an alpha channel, and the format npz is for RGB images of one size

$ eclipse poison images --attack urp --out images
the output images is equal to the input .*; expected a path apart from it
$ eclipse poison images --attack urp --out images/out
the output images/out is inside the input .*; expected a path apart from it
$ eclipse poison images --attack urp --out .
the output '\.' has no name of its own; expected a path that ends in one
$ [few] eclipse poison images --attack urp --out few
few exists already; expected a new path: choose another one or remove it

$ eclipse poison images --import nothing --out out
no such path: 'nothing'; expected a folder of images
$ eclipse poison images --import nothing.pt --out out
no such file: 'nothing\.pt'; expected a perturbation as \.pt, \.npy or \.npz
$ [few] eclipse poison images --import few --out few/out
few has 4 images and images has 20 rows; expected one for each row: give the set that was poisoned, or a slice
$ eclipse poison images --import images --out out --scale small
--scale and --set are for --attack, and --import is made already; leave them out
$ eclipse poison images --import images --out out --set eps=4
--scale and --set are for --attack, and --import is made already; leave them out
$ eclipse poison images --attack urp --out out --sign 1
--sign and --unit are for the perturbation of --import; leave them out
$ [missing] eclipse poison images --import numbered --out out
7\.png is missing in numbered; expected 0\.png to 19\.png, one for each row of images
$ [surplus] eclipse poison images --import numbered --out out
20\.png in numbered has no row in images; expected 0\.png to 19\.png, one for each
$ [twice] eclipse poison images --import numbered --out out
7\.png in numbered has no row in images; expected 0\.png to 19\.png, one for each
$ [stray] eclipse poison images --import numbered --out out
cover\.png in numbered has no row in images; expected 0\.png to 19\.png, one for each
$ [named] eclipse poison images --import numbered --out out
the images in numbered do not tell by their names to which rows of images they belong; expected the names of .* or num
$ [two ways] eclipse poison images --import numbered --out out
clean_0\.png in numbered has no row in images; expected 0\.png to 19\.png, one for each
$ [stems] eclipse poison images --import stems --out out
the numbers in stems may be rows of images or the names of its files, which differ; expected folders and names
$ [without order] eclipse poison clean --import rows.npz --out out
clean has 10\.png before 2\.png, in the order of text, and the rows of rows\.npz may follow the numbers; expected one
$ [without order] eclipse poison clean --import noise.npy --out out --sign 1 --unit levels
clean has 10\.png before 2\.png, in the order of text, and the rows of noise\.npy may follow the numbers; expected one
$ [pickled] eclipse poison images --import noise.pkl --out out --sign 1 --unit levels
noise\.pkl is a pickle, which can hold code; expected a perturbation as \.npy: numpy\.save\('noise\.npy', array\)
$ [pickled] eclipse poison images --import noise.pkl --out out
noise\.pkl is not a pickle that can be read safely .*, or a perturbation to \.npy: numpy\.save
$ [images as noise] eclipse poison images --import noise.npy --out out --sign 1 --unit unit
values from 0 to 1 and none below 0, like images; .* save images as uint8 'images' in an \.npz
$ [large images as noise] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
values from 0 to 255 and none below 0, like images; .* save images as uint8 'images' in an \.npz
$ [short] eclipse poison images --import short.npz --out out
short\.npz has 19 images and images has 20 rows; expected one for each row
$ [short] eclipse poison images --import short.npz --out out --sign 1 --unit levels
--sign and --unit are for perturbations, and short\.npz is images; leave them out
$ [other labels] eclipse poison images --import other.npz --out out
other\.npz row 10 is of class 0 and images/class1/001\.png, whose place it takes, of class 1; expected the same rows
$ [other size] eclipse poison images --import other.npz --out out
other\.npz row 0 is 16x12 and images/class0/000\.png, whose place it takes, is 16x16; expected images of the same size

$ [noise] eclipse poison images --import noise.npy --out out
noise\.npy is a perturbation with values from -8 to 8; say how to add it: --sign 1 or --sign -1, and --unit levels
$ [noise] eclipse poison images --import noise.npy --out out --sign 1
values from -8 to 8; say how to add it
$ [noise] eclipse poison images --import noise.npy --out out --unit levels
values from -8 to 8; say how to add it
$ [noise] eclipse poison images --import noise.npy --out out --sign 2 --unit levels
--sign 2; expected 1 or -1
$ [noise] eclipse poison images --import noise.npy --out out --sign 1 --unit level
unknown unit 'level'; did you mean 'levels'\?
$ [noise] eclipse poison images --import noise.npy --out out --sign 1 --unit unit
values from -8 to 8, and --unit unit goes from -1 to 1; give the other unit
$ [faint noise] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
values from -0\.00\d+ to 0\.00\d+, less than half a level with --unit levels; expected one that is seen
$ [noise of 19] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
noise\.npy holds values of shape \(19, 3, 16, 16\); expected .* each of the 20 rows of images or for .* 2 classes
$ [noise of 12x16] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
noise\.npy holds values of shape \(20, 3, 12, 16\); expected one perturbation of 16x16 for each of the 20 rows
$ [noise without sign] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
noise\.npy holds uint8, which has no sign; expected a signed perturbation: .* save them as 'images' in an \.npz
$ [complex noise] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
noise\.npy holds complex64; expected numbers
$ [noise with nan] eclipse poison images --import noise.npy --out out --sign 1 --unit levels
noise\.npy holds values that are infinite or no numbers; expected finite ones
$ [tensor with code] eclipse poison images --import code.pt --out out --sign 1 --unit levels
code\.pt is not a tensor that can be read safely: it holds code, or is no PyTorch file
$ [array with code] eclipse poison images --import code.npy --out out --sign 1 --unit levels
code\.npy cannot be read as an array of numbers as numpy\.save writes it
$ [archive with code] eclipse poison images --import code.npz --out out --sign 1 --unit levels
'noise' in code\.npz holds Python objects; expected numbers
$ [two arrays] eclipse poison images --import two.npz --out out --sign 1 --unit levels
two\.npz holds the arrays a, b; expected one perturbation, called perturbation, noise or delta

$ eclipse attacks upr
unknown attack 'upr'; did you mean 'urp'\?
"""


def cases() -> list[tuple[str, str]]:
    lines = [line for line in CASES.splitlines() if line]
    return [(command.removeprefix("$ "), words) for command, words in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.parametrize(("line", "words"), cases(), ids=[line for line, _ in cases()])
def test_bad_input_is_one_sentence_and_leaves_nothing(place: Path, command: Command, line: str, words: str) -> None:
    prepared = re.match(r"\[(.*?)\] ", line)
    if prepared:
        PREPARE[prepared[1]]()
    before = tree_bytes(place), files(place)
    sentence = refusal(command(*shlex.split(line[prepared.end() :] if prepared else line)[1:]))
    assert re.search(words, sentence), sentence
    assert (tree_bytes(place), files(place)) == before


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if name not in ("cuda", "ops")])
def test_no_attack_takes_a_radius_that_cannot_be_meant(place: Path, command: Command, name: str) -> None:
    for eps in ("0", "-1", "256", "inf"):
        said = command("poison", "images", "--attack", name, "--out", "out", "--set", f"eps={eps}")
        assert re.search("radius|expected a (whole )?number", refusal(said)), eps


# Other people's poisons


@dataclass(frozen=True)
class Poisoned:
    """Poisoned images for the user's images, in their order."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@pytest.fixture
def theirs(place: Path) -> Poisoned:
    return Poisoned(some_images(20, 16, 16, seed=9), open_labels())


def write_numbered(images: NDArray[np.uint8], folder: Path, form: str = "{}.png") -> None:
    for i, image in enumerate(images):
        path = folder / form.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)


def taken(command: Command, theirs: Poisoned, *options: object, dataset: str = "images") -> dict[str, Any]:
    """Check that an import took their images for ours, and return the manifest."""
    said = command("poison", dataset, "--out", "out", *options)
    assert said.code == 0, said
    after, before = loaded("out"), loaded(dataset)
    np.testing.assert_array_equal(after.images, theirs.images)
    assert after.ids == before.ids and after.class_names == before.class_names
    return manifest(Path("out"))


@pytest.mark.parametrize("form", ["{}.png", "{:05d}.png", "poison_{}.png", "cifar10-{}-adv.png"])
def test_images_named_by_row_are_imported_in_the_order_of_the_rows(
    command: Command, theirs: Poisoned, form: str
) -> None:
    write_numbered(theirs.images, Path("tap"), form)
    done = taken(command, theirs, "--import", "tap")
    assert done["settings"]["import"] == {"spec": "tap", "kind": "images"} and done["settings"]["attack"] is None
    sizes = measure(loaded("images").images, theirs.images, "Linf")
    assert done["radius"] == {
        "norm": "Linf",
        "asked": None,
        "measured": {"max": sizes.max(), "median": np.median(sizes)},
    }
    assert done["surrogate"] is None and done["status"] == "complete" and len(done["import fingerprint"]) == 64


def test_images_in_folders_of_classes_are_imported_by_number(command: Command, theirs: Poisoned) -> None:
    np.savez("clean.npz", images=some_images(20, 16, 16), labels=np.arange(20) % 2)
    for i, image in enumerate(theirs.images):
        write_numbered(image[None], Path("tap", f"class{i % 2}"), f"{i}.png")
    assert command("poison", "clean.npz", "--import", "tap", "--out", "out.npz").code == 0
    np.testing.assert_array_equal(loaded("out.npz").images, theirs.images)
    Path("tap/class0/0.png").rename("tap/class1/0.png")
    refused = refusal(command("poison", "clean.npz", "--import", "tap", "--out", "again.npz"))
    assert "0.png is of class 1 and clean.npz row 0" in refused


def test_images_with_the_names_of_the_clean_folder_are_imported_by_name(command: Command, theirs: Poisoned) -> None:
    flat()
    write_numbered(theirs.images, Path("tap"))  # 0.png, 1.png, 10.png, ...
    shutil.rmtree("flat")
    Path("flat").mkdir()
    for i in range(20):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(f"flat/{i}.bmp")
    expected = theirs.images[[int(Path(name).stem) for name in loaded("flat").ids]]
    assert command("poison", "flat", "--import", "tap", "--out", "out").code == 0
    np.testing.assert_array_equal(loaded("out").images, expected)


def test_the_authors_pickle_is_imported_row_by_row(command: Command, place: Path) -> None:
    clean, theirs = some_images(7, 32, 32), some_images(7, 32, 32, seed=9)
    np.savez("clean.npz", images=clean, labels=np.arange(7) % 3)
    rows = [(image.transpose(1, 2, 0).tobytes(), i % 3) for i, image in enumerate(theirs)]
    Path("poison.pkl").write_bytes(pickle.dumps(rows))
    assert command("poison", "clean.npz", "--import", "poison.pkl", "--out", "out.npz").code == 0
    np.testing.assert_array_equal(loaded("out.npz").images, theirs)
    rows[3] = (rows[3][0], 2)
    Path("poison.pkl").write_bytes(pickle.dumps(rows))
    assert "poison.pkl row 3 is of class 2" in refusal(
        command("poison", "clean.npz", "--import", "poison.pkl", "--out", "again.npz")
    )


def test_an_archive_and_a_folder_of_the_same_classes_are_imported(command: Command, theirs: Poisoned) -> None:
    np.savez("theirs.npz", images=theirs.images.transpose(0, 2, 3, 1), labels=theirs.labels)
    taken(command, theirs, "--import", "theirs.npz")
    shutil.move("out", "renamed")
    shutil.move("renamed/class0", "renamed/other")
    assert "is of class other and " in refusal(command("poison", "images", "--import", "renamed", "--out", "again"))


def test_images_of_many_sizes_are_imported(place: Path, command: Command) -> None:
    for folder, seed in (("photos", 0), ("poisoned", 100)):
        for i in range(5):
            path = Path(folder, f"photo{i}.png")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(some_images(1, 10 + i, 20 - i, seed + i)[0].transpose(1, 2, 0)).save(path)
    assert command("poison", "photos", "--import", "poisoned", "--out", "out").code == 0
    for ours, theirs in zip(load_pictures(open_source("out")), load_pictures(open_source("poisoned")), strict=True):
        np.testing.assert_array_equal(ours, theirs)


FORMS: dict[str, Callable[[NDArray[np.float32]], object]] = {
    "noise.npy": lambda values: np.save("noise.npy", values),
    "noise.npz": lambda values: np.savez("noise.npz", noise=values, index=np.arange(3)),
    "delta.npz": lambda values: np.savez("delta.npz", delta=values),
    "bare.npz": lambda values: np.savez("bare.npz", values),
    "noise.pt": lambda values: torch.save(torch.from_numpy(values), "noise.pt"),
    "half.pt": lambda values: torch.save(torch.from_numpy(values).to(torch.bfloat16), "half.pt"),
    "named.pt": lambda values: torch.save({"perturbation": torch.from_numpy(values), "seed": 3}, "named.pt"),
    "parameter.pth": lambda values: torch.save(torch.nn.Parameter(torch.from_numpy(values)), "parameter.pth"),
    "int8.npy": lambda values: np.save("int8.npy", values.astype(np.int8)),
}


@pytest.mark.parametrize(("form", "layout"), [*((form, "NCHW") for form in FORMS), ("noise.npy", "NHWC")])
def test_a_perturbation_is_added_with_its_sign_and_clipped(
    place: Path, command: Command, form: str, layout: str
) -> None:
    FORMS[form](LEVELS if layout == "NCHW" else np.ascontiguousarray(LEVELS.transpose(0, 2, 3, 1)))
    clean = loaded("images").images.astype(np.int16)
    assert clean.min() == 0 and clean.max() == 255
    for sign in (1, -1):
        said = command("poison", "images", "--import", form, "--sign", sign, "--unit", "levels", "--out", f"out{sign}")
        assert said.code == 0, said
        expected = (clean + sign * LEVELS.astype(np.int16)).clip(0, 255)
        np.testing.assert_array_equal(loaded(f"out{sign}").images, expected)
    done = manifest(place / "out-1")
    assert done["settings"]["import"] == {
        "spec": form,
        "kind": "perturbation of each image",
        "sign": -1,
        "unit": "levels",
    }
    assert done["radius"]["measured"]["max"] == pytest.approx(8 / 255)


def test_a_perturbation_on_the_unit_scale_is_rounded_to_levels(place: Path, command: Command) -> None:
    np.save("noise.npy", (LEVELS - 0.4) / 255)
    command("poison", "images", "--import", "noise.npy", "--sign", 1, "--unit", "unit", "--out", "out")
    expected = (loaded("images").images + LEVELS.astype(np.int16)).clip(0, 255)
    np.testing.assert_array_equal(loaded("out").images, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perturbation_of_each_class_goes_to_its_images(place: Path, command: Command, channels: int) -> None:
    np.save("noise.npy", LEVELS[:2, :channels])
    command("poison", "images", "--import", "noise.npy", "--sign", 1, "--unit", "levels", "--out", "out")
    expected = (loaded("images").images + LEVELS[open_labels(), :channels].astype(np.int16)).clip(0, 255)
    np.testing.assert_array_equal(loaded("out").images, expected)
    assert manifest(place / "out")["settings"]["import"]["kind"] == "perturbation of each class"


def test_code_in_a_perturbation_does_not_run(place: Path, command: Command) -> None:
    for prepare in (tensor_with_code, array_with_code, archive_with_code):
        prepare()
    for name in ("code.pt", "code.npy", "code.npz"):
        assert command("poison", "images", "--import", name, "--sign", 1, "--unit", "unit", "--out", "out").code == 2
    assert not Path("ran").exists()
    np.load("code.npy", allow_pickle=True)  # the proof that it would have run
    assert Path("ran").exists()


def test_a_finished_import_is_recognized_and_another_one_is_refused(place: Path, command: Command) -> None:
    np.save("noise.npy", LEVELS)
    given = ["poison", "images", "--import", "noise.npy", "--unit", "levels", "--out", "out", "--sign"]
    assert command(*given, 1).code == 0
    assert "complete already" in command(*given, 1).out
    assert "was made with import sign = 1 and this run asks for -1" in refusal(command(*given, -1))
    np.save("noise.npy", -LEVELS)
    assert "was made with import fingerprint = " in refusal(command(*given, 1))
    said = command("poison", "images", "--attack", "urp", "--out", "out")
    assert 'was made with import kind = "perturbation of each image"' in refusal(said)


# The table of attacks


WORDS = {"Linf": "Linf 8 levels", "L2": "L2 1", "L0": "L0 1 pixel", "none": "unbounded"}


def test_the_table_names_every_attack_in_a_hundred_columns(command: Command) -> None:
    said = command("attacks")
    assert said.code == 0 and max(len(line.rstrip()) for line in said.out.splitlines()) <= 100
    lines = {line.split()[0]: line for line in said.out.splitlines() if line and line[0] != " "}
    for name in ATTACKS.names():
        attack, small = make_attack(name), make_attack(name, scale="small")
        assert attack.family in lines[name] and attack.title.split()[0] in lines[name]
        assert {"Linf": "Linf 8 levels", "L2": "L2 1", "L0": "L0 1 pixel", "none": "unbounded"}[attack.norm] in lines[
            name
        ]
        for scaled in (attack, small):
            assert re.search(rf"\b{scaled.passes():,.0f}\b", lines[name])
    assert "resnet18/small" in lines["em"] and "none" in lines["urp"]


def test_an_attack_is_described_with_its_parameters_at_both_scales(command: Command) -> None:
    said = command("attacks", "fake")
    assert said.code == 0
    assert "A fake of the tests: away from the own class" in said.out and "Linf 8 levels" in said.out
    for row in (r"eps +8 +8 +8-bit levels", r"step +2\.5 +2\.5 +8-bit levels", r"recipe\.epochs +3 +4", r"draws +none"):
        assert re.search(rf"^{row}", said.out, re.MULTILINE), row
    assert re.search(r"^passes an image +6 +7", said.out, re.MULTILINE)


# Progress


def test_progress_of_a_crafting_is_plain_lines_when_nobody_watches(place: Path, command: Command) -> None:
    said = command("poison", "images", "--attack", "fake", "--out", "out")
    lines = said.err.splitlines()
    assert re.fullmatch(r"crafting: surrogate: 100%, 3 of 3, accuracy \d[\d.]*, \d+ s left", lines[-2]), said.err
    assert re.fullmatch(r"crafting: noise: 100%, 20 of 20", lines[-1]), said.err


def test_the_time_left_is_that_of_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(np.arange(1000.0, 1100.0, 10))
    with show.Show(lambda: float(next(clock))) as shown:
        for done in (50, 60, 80):  # it was resumed at 50
            shown.tell(StageStep("crafting: noise", done, 100, {}))
        shown.tell(StageStep("crafting: rounds", 1, 4, {"accuracy": 0.98765}))
    assert capsys.readouterr().err.splitlines() == [
        "crafting: noise: 50%, 50 of 100",
        "crafting: noise: 60%, 60 of 100, 40 s left",
        "crafting: noise: 80%, 80 of 100, 13 s left",
        "crafting: rounds: 25%, 1 of 4, accuracy 0.988",
    ]


def test_the_bar_of_a_finished_stage_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(show, "Console", lambda **options: Console(file=screen, force_terminal=True, width=120))
    with show.Show() as shown:
        shown.tell(StageStep("crafting: noise of round 1", 4, 4, {}))
        shown.tell(StageStep("crafting: noise of round 2", 1, 4, {}))
    frame = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue().rpartition("\x1b[2K")[2])
    assert re.search(r"crafting: noise of round 2 [━╺╸]+ +25% 1 of 4", frame), frame
    assert "round 1" not in frame
    with show.Show() as shown:
        shown.tell(StageStep("crafting: noise of round 1", 3, 4, {}))
        shown.tell(StageStep("crafting: noise of round 2", 1, 4, {}))
    assert "round 1" in screen.getvalue().rpartition("\x1b[2K")[2], "else this test proves nothing"


def test_a_manifest_is_whole_when_the_disk_fails(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_json", fail)
        assert "disk is full" in refusal(command("poison", "images", "--attack", "urp", "--out", "out"))
    assert [path.name for path in place.iterdir()] == ["images"]


# Images of many sizes


@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_images_of_many_sizes_are_made_one_size_poisoned_and_verified(
    tmp_path: Path, command: Command, format: str
) -> None:
    photos, out = write_images(tmp_path / "photos", 12, side=40), tmp_path / "out"
    write_images(photos, 5, side=27)
    out = out.with_suffix(".npz") if format == "npz" else out
    said = command("poison", photos, "--attack", "lsp", "--resize", 16, "--format", format, "--out", out)
    assert said.code == 0 and "all images become 16x16" in said.out, said
    check = shlex.split(re.findall(r"eclipse verify .*", said.out)[0])[1:]
    assert check[-2:] == ["--resize", "16"] and command(*check).code == 0
    poisoned = load_imageset(open_source(out), "a test")
    clean = load_imageset(open_source(photos, side=16), "a test")
    assert poisoned.images.shape == (12, 3, 16, 16) and (poisoned.images != clean.images).any(axis=(1, 2, 3)).all()
    assert poisoned.require_labels("a test").tolist() == clean.require_labels("a test").tolist()


def test_a_layout_that_holds_one_size_is_refused_with_another_before_the_work(tmp_path: Path, command: Command) -> None:
    np.savez(tmp_path / "a.npz", images=some_images(8, 16, 16).transpose(0, 2, 3, 1), labels=np.arange(8) % 2)
    options = ("poison", tmp_path / "a.npz", "--attack", "lsp", "--resize", 12)
    assert "--format folder, parquet or webdataset" in refusal(command(*options, "--out", tmp_path / "b.npz"))
    assert command(*options, "--out", tmp_path / "b", "--format", "folder").code == 0


def test_a_poison_of_others_is_resized_as_the_clean_images_are(tmp_path: Path, command: Command) -> None:
    photos = write_images(tmp_path / "photos", 6, side=20)
    theirs = write_images(tmp_path / "theirs", 6, side=20, seed=1)
    options = ("poison", photos, "--resize", 10, "--import")
    assert command(*options, theirs, "--out", tmp_path / "a").code == 0
    made, asked = (
        load_imageset(open_source(tmp_path / "a"), "a test"),
        load_imageset(open_source(theirs, side=10), "a test"),
    )
    np.testing.assert_array_equal(made.images, asked.images)
    how = ("--sign", 1, "--unit", "levels")
    for side, code in ((10, 0), (20, 2)):
        np.save(tmp_path / f"{side}.npy", np.tile(np.array([-3, 4], np.int8), (6, 3, side, side // 2)))
        said = command(*options, tmp_path / f"{side}.npy", *how, "--out", tmp_path / f"b{side}")
        assert said.code == code, said
