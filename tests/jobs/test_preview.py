"""A preview: the images of the whole purification, at each level that the denoiser serves."""

import shlex
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command, refusal, write_images
from kit.tiny import one_sentence, tiny_denoiser

from eclipse.data.source import open_source
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.errors import EclipseError
from eclipse.jobs.preview import IMAGES, LEVELS, SIDE, preview


def test_the_images_are_those_that_the_purification_will_make(
    tmp_path: Path, denoiser_folder: Path, command: Command
) -> None:
    write_images(tmp_path / "set", 30, side=16)
    write_images(tmp_path / "set", 2, side=20)
    (tmp_path / "set" / "class0" / "bad.png").write_bytes(b"no image")
    source = open_source(tmp_path / "set")
    found = preview(source, load_denoiser(denoiser_folder), "cpu")
    assert found.total == 31 and len(found.ids) >= IMAGES - 1
    assert [level.sigma for level in found.levels] == list(LEVELS) and found.default == 32
    options = ("--denoiser", denoiser_folder, "--sigma", "12", "--skip-bad")
    assert command("purify", tmp_path / "set", "--out", tmp_path / "out", *options).code == 0
    purified = {row.id: row.picture().rgb for row in open_source(tmp_path / "out").rows()}
    for id, image in zip(found.ids, found.levels[1].images, strict=True):
        np.testing.assert_array_equal(image, purified[id])
    assert all("less than a minute" in level.cost for level in found.levels)
    left = [level.canary.left["AR"] for level in found.levels if level.canary is not None]
    assert len(left) == len(LEVELS)


def test_levels_that_a_denoiser_does_not_serve_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 3, side=SIDE + 4)
    low = tiny_denoiser(t_max=300)
    found = preview(open_source(tmp_path / "set"), low, "cpu")
    assert [level.sigma for level in found.levels] == [6.4, 12.0]
    assert found.images[0].shape == (3, SIDE, SIDE)


def test_a_set_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "bad.png").write_bytes(b"no image")
    with pytest.raises(EclipseError, match="none of") as error:
        preview(open_source(tmp_path / "set"), tiny_denoiser(), "cpu")
    one_sentence(error.value)


def test_the_command_writes_a_page_whose_commands_work(tmp_path: Path, denoiser_folder: Path, command: Command) -> None:
    images, page = write_images(tmp_path / "a set", 5), tmp_path / "page.html"
    said = command("preview", images, "--denoiser", denoiser_folder, "--out", page)
    assert said.code == 0 and said.out.splitlines()[-1] == f"wrote {page}"
    text = page.read_text(encoding="utf-8")
    offered = [unescape(line) for line in text.split('<pre class="copy">')[1:]]
    assert len(offered) == len(LEVELS)
    line = shlex.split(offered[1].partition("</pre>")[0])
    assert line[0] == "eclipse" and line[line.index("--sigma") + 1] == "12"
    line[line.index("PURIFIED")] = str(tmp_path / "purified")
    assert command(*line[1:], "--dry-run").code == 0
    assert command("preview", images, "--out", page).code == 0  # with the general one
    assert command("preview", images, "--out", page, "--max-side", 6).code == 0
    assert page.read_text(encoding="utf-8").count("--max-side 6") == len(LEVELS)
    both = refusal(command("preview", images, "--denoiser", denoiser_folder, "--trusted", images))
    assert "expected one" in both
    assert "preview.html" in refusal(command("preview", images, "--out", tmp_path))


def test_larger_images_are_reduced_first(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 5, side=40)
    found = preview(open_source(tmp_path / "set", longest=20), tiny_denoiser(), "cpu")
    assert {image.shape for image in found.images} == {(3, 20, 20)} and found.max_side == 20


@pytest.mark.usefixtures("tiny_fast")
def test_trusted_images_that_do_not_fit_are_told(tmp_path: Path, command: Command) -> None:
    images, trusted = write_images(tmp_path / "set", 5, side=32), write_images(tmp_path / "trusted", 60)
    words = ("preview", images, "--trusted", trusted, "--out", tmp_path / "page.html")
    said = command(*words)
    assert said.code == 0 and "note: trusted and suspicious images differ" in said.out
    assert "shorter sides have 8 and 32 pixels" in said.out
