"""Whatever one feature alone needs names its extra when it is missing, before any work."""

import re
import sys
from pathlib import Path

import pytest
from kit.tiny import one_sentence, some_images

import eclipse
from eclipse.data.source import open_source
from eclipse.defenses import DEFENSES
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.diffusion.presets import PAPER
from eclipse.diffusion.trusted import check_trusted
from eclipse.errors import EclipseError
from eclipse.jobs.doctor import EXTRAS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGES = some_images(50, 32, 32)

NEEDS = {
    "AA": ("kornia", "defenses", lambda: DEFENSES.asked("aa", "small", [])),
    "OP": ("kornia", "defenses", lambda: DEFENSES.asked("op", "small", [])),
    "DP-SGD": ("opacus", "defenses", lambda: DEFENSES.asked("dp-sgd", "small", [])),
    "hf:NAME": ("datasets", "hub", lambda: open_source("hf:owner/name")),
    "the paper's network": ("diffusers", "paper", lambda: build_denoiser(PAPER.denoiser)),
    "its training": ("diffusers", "paper", lambda: check_trusted(IMAGES, PAPER.denoiser)),
    "ECLIPSE of preset paper": ("diffusers", "paper", lambda: DEFENSES.asked("eclipse-paper", "paper", [])),
    "one-step": ("diffusers", "paper", lambda: DEFENSES.asked("one-step", "paper", [])),
    "AVATAR": ("diffusers", "paper", lambda: DEFENSES.asked("avatar", "paper", [])),
}


@pytest.mark.parametrize("feature", NEEDS)
def test_a_missing_package_is_one_sentence_with_its_extra(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, extra, use = NEEDS[feature]
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        EclipseError, match=rf"{module}.*not installed: pip install 'eclipse-purify\[{extra}\]'"
    ) as said:
        use()
    one_sentence(said.value)


@pytest.mark.parametrize(("defense", "settings"), [("op-plain", []), ("avatar", ["denoiser=x"]), ("eclipse", [])])
def test_what_does_without_it_asks_for_nothing(
    defense: str, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("kornia", "diffusers"):
        monkeypatch.setitem(sys.modules, module, None)
    DEFENSES.asked(defense, "paper", settings)


def test_the_doctor_knows_the_extras_of_the_package() -> None:
    assert set(EXTRAS) | {"all", "dev"} == set(PROJECT["optional-dependencies"])
    listed = [name for extra in EXTRAS for name in PROJECT["optional-dependencies"][extra]]
    packages = {re.split("[<>=]", line)[0] for line in listed}
    assert packages == {module for _, modules in EXTRAS.values() for module in modules}


def test_the_source_imports_what_is_extra_by_require_alone() -> None:
    modules = "|".join(module for _, modules in EXTRAS.values() for module in modules)
    for path in Path(eclipse.__file__).parent.rglob("*.py"):
        assert not re.search(rf"^\s*(import|from) ({modules})\b", path.read_text(encoding="utf-8"), re.MULTILINE), path
