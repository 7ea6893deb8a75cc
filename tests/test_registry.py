"""Others join a table, can take no name of it, and break none but their own."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kit.commands import Command, refusal, write_images
from kit.tiny import CONFIG, one_sentence

from eclipse.attacks import ATTACKS, make_attack
from eclipse.classifiers.classifier import CLASSIFIERS, make_classifier
from eclipse.cli import show
from eclipse.data.source import open_source
from eclipse.defenses import DEFENSES
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.errors import EclipseError
from eclipse.registry import Registry

Package = Callable[..., None]

STRIPES = (Path(__file__).parent / "plugin" / "eclipse_example" / "stripes.py").read_text()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Install a package with one module and entry points; it is gone after the test."""

    def install(name: str, part: str, module: str = "", **entries: str) -> None:
        folder = tmp_path / "packages" / name
        project = name.replace("-", "_")
        info = folder / f"{project}-2.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
        lines = [f"{entry} = {reference}" for entry, reference in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[eclipse.{part}]", *lines]))
        (folder / f"{project}.py").write_text(module)
        monkeypatch.syspath_prepend(folder)

    return install


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a few images."""
    write_images(tmp_path / "images", 6, side=16)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(show, "WIDTH", 500)  # each row of a table in one line
    return tmp_path


def said_of(table: Registry, name: str) -> str:
    with pytest.raises(EclipseError) as error:
        table.load(name)
    return one_sentence(error.value)


def rows(command: Command) -> dict[str, str]:
    """The lines of ``eclipse attacks`` by their names, each in one line."""
    said = command("attacks")
    assert said.code == 0
    return {line.split()[0]: line for line in said.out.splitlines() if line}


def test_a_package_cannot_take_a_built_in_name(place: Path, package: Package, command: Command) -> None:
    package("grabber", "attacks", STRIPES, em="grabber:Stripes", mine="grabber:Stripes")
    sentence = refusal(command("poison", "images", "--attack", "em", "--out", "out"))
    assert "grabber 2.1" in sentence and "'em', which is built in" in sentence and "pip uninstall grabber" in sentence
    table = rows(command)
    assert sentence.removeprefix("eclipse: ") in table["em"] and "class-wise stripes [grabber 2.1]" in table["mine"]
    assert command("poison", "images", "--attack", "urp", "--out", "out").code == 0


def test_two_packages_cannot_have_one_name(package: Package) -> None:
    package("first", "attacks", STRIPES, stripes="first:Stripes")
    assert make_attack("stripes").title == "class-wise stripes"
    package("second", "attacks", STRIPES, stripes="second:Stripes", other="second:Stripes")
    assert "first 2.1 and second 2.1 claim the same attack name 'stripes'" in said_of(ATTACKS, "stripes")
    assert make_attack("other").title == "class-wise stripes"


BROKEN = {
    "is not there": ("", "broken_one.nowhere:X", "No module named"),
    "lacks the name": ("", "broken_one:X", "has no attribute 'X'"),
    "raises": ("1 / 0", "broken_one:X", "ZeroDivisionError"),
    "is no attack": ("class X: pass", "broken_one:X", "expected a class derived from eclipse.attacks.Attack"),
    "is half an attack": (
        "from eclipse.attacks import Attack\nclass X(Attack):\n    title, family = 'x', 'y'",
        "broken_one:X",
        "it has no norm, radius",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_package_breaks_nothing_but_its_own_names(
    what: str, place: Path, package: Package, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, reference, why = BROKEN[what]
    monkeypatch.delitem(sys.modules, "broken_one", raising=False)
    package("broken-one", "attacks", module, odd=reference)
    sentence = refusal(command("poison", "images", "--attack", "odd", "--out", "out"))
    assert why in sentence and "broken-one 2.1" in sentence and "pip uninstall broken-one" in sentence
    table = rows(command)
    assert "the package broken-one 2.1 is broken" in table["odd"] and "class-wise random noise" in table["urp"]
    assert make_attack("urp")


def test_a_broken_victim_network_or_layout_breaks_nothing_either(place: Path, package: Package) -> None:
    package("no-victim", "victims", "def net(classes, channels, side): return None", odd="no_victim:net")
    with pytest.raises(EclipseError, match=r"no-victim 2\.1 is broken .*builds no eclipse\.classifiers\.Classifier"):
        make_classifier("odd", 3)
    package("no-network", "networks", "1 / 0", odd="no_network:net")
    with pytest.raises(EclipseError, match=r"no-network 2\.1 is broken \(ZeroDivisionError"):
        build_denoiser(replace(CONFIG, architecture="odd"))
    package("no-layout", "layouts", "1 / 0", odd="no_layout:Layout")
    assert len(open_source("images")) == 6
    assert make_classifier("small", 3) and build_denoiser(CONFIG)


def test_a_path_that_two_layouts_recognize_is_refused(place: Path, package: Package) -> None:
    module = "class Layout:\n    recognizes = staticmethod(lambda path: path.suffix == '.odd')"
    (place / "images.odd").write_bytes(b"odd")
    for name in ("one", "two"):
        package(f"layout-{name}", "layouts", module, **{name: f"layout_{name}:Layout"})
    with pytest.raises(EclipseError, match=r"'one' of layout-one 2\.1 and 'two' of layout-two 2\.1"):
        open_source("images.odd")


# Files in the current folder


def test_a_file_in_the_current_folder_is_named_with_a_colon(place: Path, command: Command) -> None:
    (place / "beside.py").write_text(STRIPES)
    before = list(sys.path)
    assert "class-wise stripes (synthetic; Linf 8 levels)" in command("attacks", "beside:Stripes").out
    assert command("poison", "images", "--attack", "beside:Stripes", "--out", "out").code == 0
    assert sys.path == before
    attack = json.loads((place / "out.run.json").read_text())["settings"]["attack"]
    assert attack["name"] == "beside:Stripes" and len(attack["code"]) == 16
    assert "Linf 8 levels" in command("verify", "out", "--clean", "images", "--attack", "beside:Stripes").out

    (place / "beside.py").write_text(STRIPES + "# changed\n")
    sentence = refusal(command("poison", "images", "--attack", "beside:Stripes", "--out", "out"))
    assert "was made with attack code = " in sentence


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:X", "no module 'nowhere' for the attack 'nowhere:X'; expected an installed one, or a file in"),
        ("half:Stripe", "half.py: 'Stripe'; did you mean 'Stripes'?"),
        ("half:EclipseError", "(TypeError: expected a class derived from eclipse.attacks.Attack); mend it"),
        ("faulty:X", "the attack 'faulty:X' is broken (NameError: name 'foo' is not defined); mend it"),
        ("needs:X", "the attack 'needs:X' is broken (ModuleNotFoundError: No module named 'nowhere_at_all'); mend it"),
        ("half.py:Stripes", "no module 'half.py'"),
        ("images:Stripes", "no module 'images' for"),  # the folder of images
        ("half:", "attack 'half:'; expected module:name"),
        ("json:Stripes", "json/__init__.py: 'Stripes'"),
    ],
)
def test_a_file_that_is_no_attack_is_refused_in_one_sentence(
    name: str, said: str, place: Path, command: Command
) -> None:
    (place / "half.py").write_text(STRIPES + "from eclipse.attacks import EclipseError\n")
    (place / "faulty.py").write_text("foo")
    (place / "needs.py").write_text("import nowhere_at_all")
    (place / "json.py").write_text("raise SystemExit('the current folder hides an installed module')")
    assert said in refusal(command("poison", "images", "--attack", name, "--out", "out"))


def test_only_a_user_can_name_a_file(place: Path, denoiser_folder: Path, command: Command) -> None:
    """What a checkpoint says is a name and never an import."""
    (place / "evil.py").write_text("raise SystemExit('imported')")
    config = json.loads((denoiser_folder / "config.json").read_text())
    (place / "denoiser").mkdir()
    (place / "denoiser" / "config.json").write_text(json.dumps(config | {"architecture": "evil:build"}))
    (place / "denoiser" / "model.safetensors").write_bytes((denoiser_folder / "model.safetensors").read_bytes())
    with pytest.raises(EclipseError, match="unknown architecture 'evil:build'"):
        load_denoiser(place / "denoiser")
    assert "evil" not in sys.modules


@pytest.mark.parametrize("table", [ATTACKS, DEFENSES, CLASSIFIERS], ids=lambda table: table.kind)
def test_every_built_in_name_loads_and_has_no_code_of_others(table: Registry) -> None:
    for name in table.names():
        assert callable(table.load(name)) and table.code(name) == {}
