"""The wheel and the sdist, installed into environments that hold the core's packages and no others."""

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from kit.commands import write_images
from kit.tiny import one_sentence
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CORE = {"torch", "numpy", "pillow", "pyarrow", "safetensors", "filelock", "jinja2", "typer", "rich"}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this process's packages."""
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1", "PIP_NO_CACHE_DIR": "1"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


def succeed(*command: object, cwd: Path = ROOT) -> str:
    ended = run(*command, cwd=cwd)
    assert ended.returncode == 0, ended
    return ended.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel built from the checkout, and the one that pip makes of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "hatchling", "build", "-d", folder)
    (sdist,) = folder.glob("*.tar.gz")
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    succeed(*PIP, "wheel", *offline, "--wheel-dir", folder / "again", sdist)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next((folder / "again").glob("*.whl"))}


def requirements(lines: Iterable[str]) -> set[str]:
    """The names of what is required here without any extra."""
    parsed = map(Requirement, lines)
    return {canonicalize_name(r.name) for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})}


def required_by(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        return requirements(Parser().parsestr(file.read(name).decode()).get_all("Requires-Dist", []))


def lend(names: Iterable[str], packages: Path) -> None:
    """Link distributions of this environment, and all that they require, into another one."""
    waiting, lent = set(names), set[str]()
    while waiting:
        name = waiting.pop()
        lent.add(name)
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
        waiting |= requirements(distribution.requires or []) - lent


@pytest.fixture(scope="module")
def python(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the package and the core alone."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    lend(required_by(wheels["wheel"]), packages)
    python = environment / "bin" / "python"
    succeed(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheels["wheel"])
    return python


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, denoiser_folder: Path) -> Path:
    """A user's folder: images, trusted ones, and a tiny denoiser."""
    place = tmp_path_factory.mktemp("user")
    write_images(place / "images", 6, side=32)
    write_images(place / "trusted", 50, side=32)
    (place / "denoiser").symlink_to(denoiser_folder)
    return place


def test_the_core_is_nine_packages(wheels: dict[str, Path]) -> None:
    for wheel in wheels.values():
        assert required_by(wheel) == (CORE if sys.version_info >= (3, 11) else CORE | {"tomli"})


def test_the_wheel_is_small_and_holds_the_package_alone(wheels: dict[str, Path]) -> None:
    assert wheels["wheel"].stat().st_size < 4 * 2**20
    with zipfile.ZipFile(wheels["wheel"]) as file:
        assert {name.split("/")[0].split("-")[0] for name in file.namelist()} == {"eclipse", "eclipse_purify"}


def test_the_sdist_makes_the_same_wheel(wheels: dict[str, Path]) -> None:
    def content(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as file:
            return {entry.filename: entry.CRC for entry in file.infolist()}

    assert content(wheels["sdist"]) == content(wheels["wheel"])


def test_the_core_alone_purifies(python: Path, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [python.with_name("eclipse"), "purify", "images", "--denoiser", "denoiser", "--out", out]
    assert f"6 images in {out}" in succeed(*command, cwd=place) and len(list(out.rglob("*.png"))) == 6


TRAIN = "train images --test trusted --arch small --out run --dry-run --defense"
EXTRAS = {
    "purify hf:owner/name --denoiser denoiser --out out": "hub",
    "denoiser train trusted --preset paper --out out": "paper",
    f"{TRAIN} op": "defenses",
    f"{TRAIN} dp-sgd": "defenses",
}
EACH = """
import sys
from eclipse.cli import main
for line in sys.argv[1:]:
    sys.argv = ["eclipse", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, line
"""


def test_what_else_is_needed_names_its_extra(python: Path, place: Path) -> None:
    ended = run(python, "-c", EACH, *EXTRAS, cwd=place)
    assert ended.returncode == 0, ended
    for said, extra in zip(ended.stderr.splitlines(), EXTRAS.values(), strict=True):
        assert one_sentence(said).endswith(f"not installed: pip install 'eclipse-purify[{extra}]'")
