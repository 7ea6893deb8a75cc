"""The page of a purification: its numbers, its pairs in every layout, and what it refuses."""

import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.commands import Command, refusal, write_images
from kit.layouts import LAYOUTS
from kit.tiny import some_images
from PIL import Image

from eclipse.data.output import FORMATS, fingerprint_of_output, write_output
from eclipse.data.picture import encode_png, repainted
from eclipse.data.similarity import ssim
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.report.plots import plot
from eclipse.report.purified import figures
from eclipse.report.purified.measure import CARDS, FREQUENCIES, PLACES, ROWS, Pair, measure, rows_to_read


def halved(source: Source, out: Path, format: str | None, skipped: frozenset[str] = frozenset()) -> str:
    """Write a copy in which each value is half of what it was; its fingerprint."""

    def pictures() -> Iterable[tuple[str, bytes]]:
        for row in source.rows():
            if row.id not in skipped:
                picture = row.picture()
                yield row.id, encode_png(repainted(picture, picture.rgb // 2))

    return write_output(source, iter(pictures()), out, format, skipped)


@pytest.mark.parametrize("format", [None, *FORMATS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_row_is_paired_with_what_became_of_it(layout: str, format: str | None, tmp_path: Path) -> None:
    source = open_source(LAYOUTS[layout](tmp_path / "set"))
    if source.root is None and format is None:
        pytest.skip("a range of shards is written as a folder of them, whose name says so")
    kept = source.root.suffix if source.root is not None and format in (None, source.layout) else ""
    out = tmp_path / f"out{kept or (f'.{format}' if format in ('parquet', 'npz') else '')}"
    left_out = [row for i, row in enumerate(source.rows()) if i in (0, 4, 5)]
    made = halved(source, out, format, frozenset(row.id for row in left_out))
    output, pairs = open_source(out), list[Pair]()
    assert fingerprint_of_output(source, output, [row.name for row in left_out]) == made
    found = measure(source, output, [row.name for row in left_out], pairs.append)
    assert (found.rows, found.images) == (len(source) - 3, len(source) - 3)
    assert pairs and all((pair.after == pair.before // 2).all() for pair in pairs)
    assert not {pair.name.removeprefix("row ") for pair in pairs} & {row.id for row in left_out}


def npz(path: Path, images: np.ndarray[Any, Any], classes: int = 2) -> Source:
    np.savez(path, images=images.transpose(0, 2, 3, 1), labels=np.arange(len(images)) % classes)
    return open_source(path)


def test_a_poison_of_a_class_is_seen_in_its_mean_and_chance_is_not(tmp_path: Path, rng: np.random.Generator) -> None:
    clean = rng.integers(50, 200, (200, 3, 16, 16), dtype=np.uint8)
    noise = rng.integers(-9, 10, clean.shape)
    pattern = rng.integers(-9, 10, (2, *clean.shape[1:]))[np.arange(200) % 2]
    after = npz(tmp_path / "after.npz", clean)
    by_class = measure(npz(tmp_path / "a.npz", (clean + pattern + noise).astype(np.uint8)), after, [], id)
    by_image = measure(npz(tmp_path / "b.npz", (clean + noise).astype(np.uint8)), after, [], id)
    np.testing.assert_allclose(by_class.patterns[1], pattern[1] + noise[1::2].mean(0))
    assert by_class.constancy is not None and by_image.constancy is not None and by_image.by_chance == 0.01
    assert by_class.constancy == pytest.approx(0.5, abs=0.05) and by_image.constancy == pytest.approx(0.01, abs=0.003)


def test_a_wave_is_a_peak_of_the_spectrum_at_its_frequency_whatever_the_size(tmp_path: Path) -> None:
    for side in (32, 64):
        wave = np.rint(20 * np.cos(2 * np.pi * 8 / 32 * np.arange(side))).astype(np.int16)
        before = np.broadcast_to(100 + wave, (4, 3, side, side)).astype(np.uint8)
        after = npz(tmp_path / f"{side}.npz", np.full_like(before, 100))
        found = measure(npz(tmp_path / f"b{side}.npz", before), after, [], id)
        assert np.argmax(found.spectrum) == 8 and found.spectrum[8] > 100 * np.delete(found.spectrum, 8).max()
        assert found.spectra.keys() == {0, 1}


def test_psnr_ssim_and_change_are_what_they_are_by_definition(tmp_path: Path, rng: np.random.Generator) -> None:
    before = rng.integers(0, 200, (3, 3, 7, 7), dtype=np.uint8)
    after = before + np.array([0, 1, 10], np.uint8)[:, None, None, None]
    found = measure(npz(tmp_path / "a.npz", before), npz(tmp_path / "b.npz", after), [], id)
    np.testing.assert_allclose(found.psnr, [20 * np.log10(255), 20 * np.log10(25.5)])
    np.testing.assert_allclose(found.change, [0, 1, 10])
    assert found.ssim[0] == pytest.approx(1) and found.ssim[0] > found.ssim[1] > found.ssim[2]
    x, y = (rng.normal(100, 30, (3, 7, 7)) for _ in range(2))
    mean = [
        (2 * a.mean() * b.mean() + 6.5025) * (2 * ((a - a.mean()) * (b - b.mean())).mean() + 58.5225)
        / ((a.mean() ** 2 + b.mean() ** 2 + 6.5025) * (a.var() + b.var() + 58.5225))
        for a, b in zip(x, y, strict=True)
    ]  # fmt: skip
    assert ssim(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(np.mean(mean))


def test_rows_are_spread_over_a_large_set_and_the_gallery_is_bounded(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", some_images(ROWS + 500, 4, 4))
    places = rows_to_read(source, len(source))
    assert sum(map(len, places)) == ROWS and len(places) == PLACES
    assert places[0].start == 0 and places[-1].stop == len(source)
    after = npz(tmp_path / "b.npz", np.zeros((len(source), 3, 4, 4), np.uint8))
    found = measure(source, after, [], lambda pair: (pair.change, pair.name))
    assert (found.rows, found.images) == (ROWS, ROWS + 500)
    most: Any = found.cards["most changed"]
    assert [change for change, _ in most] == sorted(found.change, reverse=True)[:CARDS]
    assert {kind: len(cards) for kind, cards in found.cards.items()} == {
        "random": CARDS,
        "most changed": CARDS,
        "one of each class": 2,
    }
    assert len(found.spectrum) == FREQUENCIES


def test_images_of_many_sizes_have_no_mean_and_the_rest_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 3, side=9)
    write_images(tmp_path / "set" / "large", 2, side=150)
    source = open_source(tmp_path / "set")
    halved(source, tmp_path / "out", None)
    found = measure(source, open_source(tmp_path / "out"), [], id)
    assert not found.patterns and found.constancy is None
    assert found.sizes == ((9, 9), (150, 150)) and np.isfinite(found.psnr).all()


def test_images_that_were_not_changed_or_are_tiny_or_have_no_class_are_shown(tmp_path: Path) -> None:
    images = some_images(3, 1, 2)
    np.savez(tmp_path / "a.npz", images=images.transpose(0, 2, 3, 1), labels=np.array([0, -1, 1]))
    source = open_source(tmp_path / "a.npz")
    found = measure(source, source, [], figures.card)
    assert len(found.psnr) == 0 and found.spectra.keys() == {0, 1}
    np.testing.assert_allclose(found.ssim, 1)
    cards: Any = found.cards["random"]
    assert [(card.label, card.figures) for card in cards] == [(c, "2x1, unchanged") for c in (0, None, 1)]
    assert all("<svg" in str(svg) for svg in (*figures.histograms(found), figures.spectrum(found)))
    assert figures.patterns(found)[0] == ()


HOSTILE = "<img src=x onerror=alert(1)>$x_1$\u202e\x07"


@pytest.fixture
def purified(tmp_path: Path, command: Command, denoiser_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A purified folder with a hostile class, one large image, and one that is none."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "set" / HOSTILE, 5)
    write_images(tmp_path / "set", 4, side=100)
    (tmp_path / "set" / "class0" / "bad <b>.png").write_bytes(b"no image")
    options = ("--denoiser", denoiser_folder, "--skip-bad", "--report")
    said = command("purify", "set", "--out", "purified", *options)
    assert said.code == 0 and said.out.splitlines()[-1] == "wrote purified.report.html", said
    return tmp_path / "purified"


def test_the_page_is_one_small_file_with_what_the_manifest_tells(purified: Path, command: Command) -> None:
    page = purified.with_name("purified.report.html")
    text = page.read_text(encoding="utf-8")
    assert len(text) < 5_000_000
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)|url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    for said in ("of 32 levels", "9, 1 left out", "bad &lt;b&gt;.png", "compensate = Compensate(p=0.7", "onerror"):
        assert said in text, said
    assert "<img src=x" not in text and "\u202e" not in text and "\x07" not in text
    assert command("report", purified.with_name("purified.run.json"), "--out", "pages").code == 0
    assert purified.with_name("pages").joinpath("purified.report.html").read_bytes() == page.read_bytes()


def test_the_warning_of_the_canary_stands_at_the_top(purified: Path, command: Command) -> None:
    manifest, page = (purified.with_name(f"purified.{end}") for end in ("run.json", "report.html"))
    assert 'role="alert"' not in page.read_text(encoding="utf-8")
    canary = {"left": {"AR": 0.9}, "psnr": 20.0, "gain": -3.0, "error": 0.1, "tuned": True}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "canary": canary}))
    assert command("report", purified).code == 0
    warning, rest = page.read_text(encoding="utf-8").split('role="alert">')[1].split("</p>", 1)
    assert "worse than from the general denoiser" in warning and "0.90" in rest


def test_what_is_no_finished_purification_of_these_images_is_refused(purified: Path, command: Command) -> None:
    manifest = purified.with_name("purified.run.json")
    good = json.loads(manifest.read_text())
    for (name, value), words in [
        (("status", "failed"), "is not finished"),
        (("settings", {}), "cannot be read as the manifest of a purification"),
        (("canary", {"left": {"AR": "much"}}), "cannot be read as the manifest of a purification"),
        (("input fingerprint", "0"), "is not as it was"),
        (("counts", {"purified": 5}), "has 9 images, and its manifest tells of 5"),
    ]:
        manifest.write_text(json.dumps({**good, name: value}))
        assert words in refusal(command("report", purified))
    manifest.write_text(json.dumps(good))
    image = next(purified.rglob("000.png"))
    shutil.copy(next((purified / "class1").rglob("*.png")), image)
    assert "does not hold the images that its manifest tells of" in refusal(command("report", purified))
    manifest.write_text(json.dumps({name: value for name, value in good.items() if name != "output fingerprint"}))
    assert "is not what became of" in refusal(command("report", purified))
    image.unlink()
    assert "expected the data set that it was written for" in refusal(command("report", purified))
    manifest.unlink()
    assert "no results" in refusal(command("report", purified))
    assert "is not there" in refusal(command("report", purified / "nothing"))
    assert "has no data.npz.run.json" in refusal(command("report", npz(purified / "data.npz", some_images(2)).spec))


def test_without_matplotlib_a_page_says_how_to_get_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "eclipse-purify[report]" in plot(lambda figure: None, (1, 1), "nothing")


def test_a_plot_is_the_same_bytes_in_the_colors_of_the_page_and_stands_for_itself() -> None:
    def draw(figure: Any) -> None:
        figure.add_subplot().plot([1, 2], [1, 2], label="$<b>")
        figure.legend()

    one, again, other = (str(plot(draw, (2, 2), label)) for label in ("a", "a", "b"))
    assert one == again and "var(--muted)" in one and "#0102" not in one and "$&lt;b&gt;" in one
    assert not set(re.findall(r'id="([^"]*)"', one)) & set(re.findall(r'id="([^"]*)"', other))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB"])
@pytest.mark.parametrize("format", ["folder", "parquet", "npz", "webdataset"])
def test_the_fingerprint_of_gray_images_is_found_again(tmp_path: Path, mode: str, format: str) -> None:
    if (mode, format) == ("LA", "npz"):
        pytest.skip("alpha has no place in an .npz")
    (tmp_path / "set").mkdir()
    for i in range(3):
        color = {"L": 40 * i, "LA": (40 * i, 9), "RGB": (40 * i, 9, 7)}[mode]
        Image.new(mode, (9, 9), color).save(tmp_path / "set" / f"{i}.png")
    source, out = open_source(tmp_path / "set"), tmp_path / f"out.{format}"
    made = halved(source, out, format)
    assert fingerprint_of_output(source, open_source(out), []) == made
