"""The documentation is true: its commands and its code run as printed, its tables are those of results and code."""

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from PIL import Image
from test_architecture import LEVELS
from typer.testing import CliRunner

from eclipse.cli import app
from eclipse.data.picture import MAX_PIXELS
from eclipse.detectors import evidence
from eclipse.diffusion import presets
from eclipse.diffusion.presets import FAST
from eclipse.diffusion.trusted import MIN_IMAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FOLLOWED = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("data", "research", "pages", "training", "audit")),
]
"""The pages that a reader works through, in this order."""

# The reader trains for minutes; here two steps show that the code runs.
_TWO = replace(FAST.training, iterations=2)
TWO_STEPS = replace(FAST, training=_TWO, tuning=_TWO)


def code(page: Path, language: str) -> str:
    """The code blocks of a page in one language, in order."""
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))


def commands() -> list[str]:
    lines = "".join(code(page, "sh") for page in FOLLOWED).replace("\\\n", " ").splitlines()
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
    """What a command line of the pages did."""

    line: str
    exit_code: int
    output: str
    error: BaseException | None


@dataclass(frozen=True)
class Reader:
    """A reader's folder, after all commands of the pages were given in it in order."""

    folder: Path
    tried: list[Tried]


def harmless(line: str) -> list[str]:
    """The arguments of a command; those that take long, or need many images, only check what they are given."""
    args = shlex.split(line)[1:]
    if args[0] in ("demo", "doctor", "bench", "report"):
        return [*args, "--help"]
    if args[0] in ("audit", "choose") or "--auto" in args:
        return [*(word.replace("photos", "many") for word in args), "--dry-run"]
    return [*args, "--dry-run"] if "[" in line else args


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads on tiny images cost more than they bring, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reader(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    parts = {
        "photos/cat": 5,
        "photos/dog": 6,
        "many/cat": 100,
        "many/dog": 101,
        "held-out/cat": 4,
        "held-out/dog": 3,
        "trusted": MIN_IMAGES,
    }
    for part, count in parts.items():
        write_images(folder / part, count)
    (folder / "photos" / "notes.txt").write_text("from the web")
    write_table(folder / "train.parquet", 50_000)
    shutil.copy(checkpoint, folder / "ema_0.9999_250000.pt")
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.chdir(folder)
        patch.setitem(presets.PRESETS, "fast", TWO_STEPS)
        results = [(line, CliRunner().invoke(app, harmless(line))) for line in commands()]
    yield Reader(folder, [Tried(line, r.exit_code, r.output, r.exception) for line, r in results])


def test_every_command_is_told_and_works(reader: Reader) -> None:
    group = typer.main.get_command(app)
    assert {shlex.split(tried.line)[1] for tried in reader.tried} == set(group.commands)  # type: ignore[attr-defined]
    for tried in reader.tried:
        assert tried.exit_code == 0, (tried.line, tried.output, tried.error)


def test_the_main_command_leaves_what_the_readme_says(reader: Reader) -> None:
    made = sorted(path.name for path in reader.folder.glob("*purified*") if not path.name.startswith("purified-again"))
    tuned = ["purified-too", "purified-too.denoiser", "purified-too.run.json"]
    assert made == ["purified", *tuned, "purified.run.json"]
    before = {path.relative_to(reader.folder / "photos") for path in (reader.folder / "photos").rglob("*")}
    after = {path.relative_to(reader.folder / "purified") for path in (reader.folder / "purified").rglob("*")}
    assert after == before


def test_the_python_of_each_page_runs(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(reader.folder)
    monkeypatch.setitem(presets.PRESETS, "fast", TWO_STEPS)
    monkeypatch.setattr(evidence, "LEAST_STEPS", 30)
    for page in FOLLOWED:
        exec(code(page, "python"), {})
    assert "expected" in capsys.readouterr().out  # the mistake at the end was refused in words


def test_tables_are_those_of_results_and_code() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "render_pages.py"))
    pages = [page.read_text() for page in script["PAGES"]]
    assert [script["rendered"](page) for page in pages] == pages, "run benchmarks/render_pages.py"
    assert all(f"<!-- rendered: {name} -->" in "".join(pages) for name in script["BLOCKS"])


def test_the_other_numbers_are_those_of_the_code() -> None:
    text = "".join(page.read_text() for page in FOLLOWED)
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
