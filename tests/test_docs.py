"""The documentation is true: its commands and its code run as printed, its numbers are those of the code."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_architecture import LEVELS
from typer.testing import CliRunner

from eclipse.bench.results import read_results
from eclipse.cli import app
from eclipse.data.picture import MAX_PIXELS
from eclipse.diffusion import presets
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.diffusion.presets import FAST, PAPER, Preset
from eclipse.diffusion.trusted import MIN_IMAGES
from eclipse.report.grid import figures

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CHECKPOINT = ROOT / "tests" / "golden" / "ema_0.9999_000100.pt"

# The reader trains for minutes; here two steps show that the code runs.
PRELUDE = """
from dataclasses import replace
import torch
from eclipse.diffusion import presets
torch.set_num_threads(1)
training = replace(presets.FAST.training, iterations=2)
presets.PRESETS["fast"] = replace(presets.FAST, training=training)
"""


def blocks(language: str) -> list[str]:
    """The code blocks of README.md in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("eclipse ")]


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:04d}.png")


def write_table(path: Path, rows: int) -> None:
    """A table with the columns of images, none of which is looked at by --dry-run."""
    pq.write_table(pa.table({"image": pa.repeat(pa.scalar({"bytes": b"", "path": ""}), rows)}), path)


@dataclass(frozen=True)
class Tried:
    """What a command line of the README did."""

    line: str
    exit_code: int
    output: str
    error: BaseException | None


@dataclass(frozen=True)
class Reader:
    """A reader's folder, after all commands of the README were given in it in order."""

    folder: Path
    tried: list[Tried]


def harmless(line: str) -> list[str]:
    """The arguments of a command; those that take long, or need 10,000 images, only check what they are given."""
    args = shlex.split(line)[1:]
    if args[0] in ("demo", "doctor", "bench", "report"):
        return [*args, "--help"]
    return [*args, "--dry-run"] if "[" in line else args


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads on tiny images cost more than they bring, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    parts = {"photos/cat": 5, "photos/dog": 6, "held-out/cat": 4, "held-out/dog": 3, "trusted": MIN_IMAGES}
    for part, count in parts.items():
        write_images(folder / part, count)
    (folder / "photos" / "notes.txt").write_text("from the web")
    write_table(folder / "train.parquet", 50_000)
    shutil.copy(CHECKPOINT, folder / "ema_0.9999_250000.pt")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.chdir(folder)
        patch.setitem(presets.PRESETS, "fast", replace(FAST, training=replace(FAST.training, iterations=2)))
        results = [(line, CliRunner().invoke(app, harmless(line))) for line in commands()]
    yield Reader(folder, [Tried(line, r.exit_code, r.output, r.exception) for line, r in results])


def test_every_command_of_the_readme_works(reader: Reader) -> None:
    told = {shlex.split(tried.line)[1] for tried in reader.tried}
    assert told == {path.stem for path in (ROOT / "src/eclipse/cli").glob("[!_]*.py")} - {"show"}
    for tried in reader.tried:
        assert tried.exit_code == 0, (tried.line, tried.output, tried.error)


def test_the_main_command_leaves_what_the_readme_says(reader: Reader) -> None:
    made = sorted(path.name for path in reader.folder.glob("*purified*") if not path.name.startswith("purified-again"))
    assert made == ["purified", "purified.denoiser", "purified.run.json"]
    before = {path.relative_to(reader.folder / "photos") for path in (reader.folder / "photos").rglob("*")}
    after = {path.relative_to(reader.folder / "purified") for path in (reader.folder / "purified").rglob("*")}
    assert after == before


def test_the_python_of_the_readme_runs_in_order_in_one_namespace(reader: Reader) -> None:
    code = blocks("python")
    assert len(code) >= 4
    run = subprocess.run(  # a fresh interpreter, as the reader's is
        [sys.executable, "-c", "".join([PRELUDE, *code])],
        cwd=reader.folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "expected" in run.stdout  # the mistake at the end was refused in words


def parameters(preset: Preset) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_denoiser(preset.denoiser).parameters())


def numbers(preset: Preset) -> list[str]:
    """What the table of presets must say of one, row by row."""
    training, highest = preset.training, preset.denoiser.schedule.sigma(preset.denoiser.t_max - 1)
    size = preset.denoiser.image_size
    return [
        f"{parameters(preset):,} parameters",
        "any" if size is None else f"{size}x{size}",
        f"{preset.sigma * 255:.1f}/255",
        f"{preset.steps}, `{preset.sampler}`",
        f"{highest * 255:.1f}/255",
        f"{training.iterations:,} steps of {training.batch} images, learning rate {training.lr}",
        f"{training.ema}",
        f"{training.copies}",
        f"p = {preset.p}, noise = {preset.noise}, q = {preset.q:g}",
    ]


def test_the_table_of_presets_has_the_numbers_of_the_code() -> None:
    table = README.read_text().partition("| | `fast` (default) | `paper` |\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    for (title, *cells), *expected in zip(rows, numbers(FAST), numbers(PAPER), strict=True):
        assert [cell.endswith(text) for cell, text in zip(cells, expected, strict=True)] == [True, True], title


def in_short(section: figures.Section, defense: str) -> list[str]:
    """What the README says of a defense: seeds, mean recovery and mean accuracy on what bites, clean accuracy."""
    clean, bites = section.entry("clean", defense), figures.biting(section)
    recovered, accuracy = figures.mean_recovery(section, defense), figures.mean_accuracy(section, defense, bites)
    assert clean.mean and recovered and recovered.complete and accuracy and accuracy.complete
    return [
        f"{len(clean.cells)}",
        f"{recovered.value:.2f}" if defense != "none" else "",
        f"{100 * accuracy.value:.1f}",
        f"{100 * clean.mean:.1f}" + (f" ± {100 * clean.spread:.1f}" if clean.spread is not None else ""),
    ]


@pytest.mark.parametrize(("folder", "place"), [("cpu", 1), ("cpu-avx2", 2)])
def test_the_short_central_tables_have_the_numbers_of_the_results(folder: str, place: int) -> None:
    (section,) = figures.make_sections(read_results(ROOT / "benchmarks" / "results" / folder))
    table = README.read_text().split("| defense | seeds | recovery |")[place].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]]
    assert {title.split("`")[1] for title, *_ in rows} >= {"none", "eclipse", "iss-j", "at", "d-vae"}
    for title, *cells in rows:
        assert cells == in_short(section, title.split("`")[1]), title


def test_the_other_numbers_of_the_readme_are_those_of_the_code() -> None:
    text = README.read_text()
    assert set(re.findall(r"Compensate\(p=[^)]*\)", text)) == {
        f"Compensate(p={FAST.p}, noise={FAST.noise}, q={FAST.q})"
    }
    assert f"Fewer than {MIN_IMAGES} are" in text
    assert f"more than {MAX_PIXELS:,} pixels" in text


def test_links_between_pages_lead_to_files() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert links
    missing = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert missing == []


def test_the_architecture_page_quotes_the_levels() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert page.partition("## Levels")[2].split("```")[1].strip() == LEVELS.strip()
