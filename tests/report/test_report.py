"""The report of a benchmark grid: its figures, and what hostile or damaged results do to it."""

import copy
import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from kit.commands import Command, refusal
from kit.results import result, write_results
from kit.tiny import one_sentence
from markdown_it import MarkdownIt

from eclipse import cli
from eclipse.bench.result import OVERLAP, Failure, Folder, Result, read_results
from eclipse.cli.report import HELP, report
from eclipse.errors import EclipseError
from eclipse.report.grid import figures, paper_numbers, write_report
from eclipse.report.grid.chart import offsets, places
from eclipse.report.grid.figures import Section, make_sections
from eclipse.report.grid.markdown import render_markdown

HOSTILE = "<img src=x onerror=alert(1)>|`*[a](http://b)_\\| \\input{/etc/passwd}%$^~#&\"'</td>\n\n# x\x00\u202e\ud800"


def grid() -> list[Result]:
    """Two poisons that bite and one that does not."""
    none = {"clean": (0.78, 0.80, 0.82), "em": (0.18, 0.20, 0.22), "tap": (0.40,), "urp": (0.66,)}
    jpeg = {"clean": (0.77,), "em": (0.69, 0.73), "tap": (0.60,), "urp": (0.79,)}
    slow = {"prepare": 50.0, "train": 150.0}
    return [
        *(result(attack, "none", seed, value) for attack, row in none.items() for seed, value in enumerate(row)),
        *(
            result(attack, "iss-j", seed, value, seconds=slow)
            for attack, row in jpeg.items()
            for seed, value in enumerate(row)
        ),
        result("em", "dilution", 0, 0.80, trusted=figures.LABELS),
        result("clean", "trusted-only", 0, 0.40, trusted=figures.LABELS, ignores_data=True),
    ]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A grid with a seed that is missing and one that failed."""
    missing, failed = result("em", "iss-j", 2, 0.0), result("tap", "iss-j", 1, 0.0)
    folder = write_results(tmp_path / "results", grid(), (missing, failed, result("em", "aa", 0, 0.0)))
    fail(folder.path, failed.cell, "the loss is not finite")
    return folder.path


def fail(path: Path, cell: str, error: str) -> None:
    Folder(path).fail(Failure(cell, error, f"eclipse bench g --cell {cell}"))


def section(folder: Path) -> Section:
    (found,) = make_sections(read_results(folder))
    return found


def texts(folder: Path) -> dict[str, str]:
    """The reports for people, by their endings."""
    return {path.suffix: path.read_text(encoding="utf-8") for path in write_report(folder) if path.suffix != ".csv"}


def test_means_and_spreads_are_over_the_finished_seeds(results: Path) -> None:
    entry = section(results).entry("em", "iss-j")
    assert entry.mean == pytest.approx(0.71)
    assert entry.spread == pytest.approx(0.02 * 2**0.5)  # of the sample (0.69, 0.73)
    assert (len(entry.cells), len(entry.missing), len(entry.failed), entry.planned) == (2, 1, 0, 3)
    assert section(results).entry("tap", "iss-j").failed[0][1].error == "the loss is not finite"
    assert section(results).entry("clean", "none").spread == pytest.approx(0.02)
    assert section(results).entry("tap", "none").spread is None


def test_recovery_is_a_quotient_of_means_over_poisons_that_bite(results: Path) -> None:
    found = section(results)
    assert figures.biting(found) == ("em", "tap")  # URP costs 14 points, one too few
    assert figures.recovery(found, "em", "iss-j") == pytest.approx((0.71 - 0.20) / (0.80 - 0.20))
    assert figures.recovery(found, "urp", "iss-j") is None
    mean = figures.mean_recovery(found, "iss-j")
    assert mean is not None and mean.complete
    assert mean.value == pytest.approx((0.85 + 0.5) / 2)
    some = figures.mean_recovery(found, "dilution")
    assert some is not None and not some.complete and some.poisons == ("em",) and some.value == pytest.approx(1.0)
    assert figures.mean_recovery(found, "aa") is None


def test_fifteen_points_bite_and_fewer_do_not(tmp_path: Path) -> None:
    cells = [result(attack, "none", 0, low) for attack, low in {"clean": 0.80, "em": 0.65, "tap": 0.6501}.items()]
    assert figures.biting(section(write_results(tmp_path / "r", cells).path)) == ("em",)


def test_clean_accuracy_costs_and_the_best_defense_are_told(results: Path) -> None:
    found = section(results)
    assert figures.clean_drop(found, "iss-j") == pytest.approx(0.03)
    assert figures.best(found, "em", labels=True) == "dilution"
    assert figures.best(found, "em", labels=False) == "iss-j"
    cost = figures.cost(found, "iss-j")
    assert cost is not None and (cost.prepare, cost.train, cost.factor) == (50.0, 150.0, 2.0)
    assert figures.cost(found, "aa") is None
    assert figures.crafting_seconds(found, "em") == 60.0


def test_only_defenses_with_all_poisons_that_bite_are_ranked_above_the_rest(results: Path) -> None:
    assert figures.ranked(section(results)) == ("iss-j", "trusted-only", "dilution", "aa", "none")


def test_a_defense_that_ignores_the_data_has_its_clean_result_for_every_poison(results: Path) -> None:
    found = section(results)
    assert found.entry("em", "trusted-only").borrowed
    assert found.mean("em", "trusted-only") == pytest.approx(0.40)
    assert len(found.cells) == len(read_results(results).cells)


def test_such_a_defense_has_one_result_in_a_grid_without_clean_data_too(tmp_path: Path) -> None:
    alone = result("em", "trusted-only", 0, 0.40, ignores_data=True)
    cells = [alone, result("em", "none", 0, 0.2), result("tap", "none", 0, 0.3)]
    found = section(write_results(tmp_path / "results", cells).path)
    assert found.entry("tap", "trusted-only").borrowed and not found.entry("em", "trusted-only").borrowed
    assert found.mean("tap", "trusted-only") == pytest.approx(0.40)


def test_the_papers_recovery_is_that_of_the_victim_of_its_poisons(tmp_path: Path) -> None:
    accuracies = {("clean", "none"): 0.9, ("em", "none"): 0.2, ("em", "eclipse"): 0.8}
    cells = [result(*pair, 0, accuracy, arch="resnet50") for pair, accuracy in accuracies.items()]
    recovered = figures.paper_mean_recovery(section(write_results(tmp_path / "results", cells).path), "eclipse")
    assert recovered is not None and recovered.value == pytest.approx((82.80 - 17.58) / (94.95 - 17.58))


@pytest.mark.parametrize("defense", paper_numbers.RESNET18)
def test_rows_of_the_paper_have_their_published_means(defense: str) -> None:
    row = paper_numbers.RESNET18[defense]
    assert len(row) == len(paper_numbers.POISONS)
    assert sum(row) / len(row) == pytest.approx(paper_numbers.RESNET18_MEANS[defense], abs=0.0051)


def test_further_published_means_agree_with_their_rows() -> None:
    row = [value for value in paper_numbers.VGG19["eclipse"] if value is not None]
    assert sum(row) / len(row) == pytest.approx(paper_numbers.VGG19_MEANS["eclipse"], abs=0.0051)
    assert sum(paper_numbers.RESNET18["eclipse"][:-1]) / 8 == pytest.approx(
        paper_numbers.ABLATION_MEANS["eclipse"], abs=0.0051
    )
    for name, row in paper_numbers.ABLATION.items():
        assert sum(row) / len(row) == pytest.approx(paper_numbers.ABLATION_MEANS[name], abs=0.0051), name
    assert paper_numbers.ABLATION["eclipse-a"] == paper_numbers.RESNET18["avatar"][:-1]


def test_the_paper_is_compared_with_where_it_has_numbers(results: Path, tmp_path: Path) -> None:
    assert paper_numbers.accuracy("em", "eclipse-paper", "vgg19") == 80.73
    assert paper_numbers.accuracy("sep", "eclipse", "vgg19") is None
    assert paper_numbers.accuracy("clean", "at", "densenet121") == 89.11
    assert paper_numbers.accuracy("em", "eclipse-a", "small") == 27.45
    assert paper_numbers.accuracy("adp", "eclipse-a", "small") is None
    assert paper_numbers.accuracy("tap", "eclipse-bc", "resnet50") == 83.32
    assert paper_numbers.accuracy("em", "eclipse-bc", "vgg19") is None
    assert paper_numbers.accuracy("cuda", "none", "small") is None
    found = section(results)
    assert figures.paper_accuracy(found, "em", "iss-j") == pytest.approx(0.7835)
    recovered = figures.paper_mean_recovery(found, "iss-j")
    assert recovered is not None
    em, tap = (78.35 - 17.58) / (94.95 - 17.58), (80.77 - 26.16) / (94.95 - 26.16)
    assert recovered.value == pytest.approx((em + tap) / 2)
    other = [replace(one, data=replace(one.data, name="CIFAR-100")) for one in grid()]
    assert figures.paper_accuracy(section(write_results(tmp_path / "other", other).path), "em", "iss-j") is None


def test_each_output_has_the_figures_and_the_conditions(results: Path) -> None:
    for text in texts(results).values():
        for words in (
            "71.0",
            "2.8",
            "78.3",
            "0.68",
            "100 training and 50 test images",
            "221,026",
        ):
            assert words in text, words
        for words in ("2 epochs, accuracy after the last one", "AVX2 processor, 1 thread", "seeds 0, 1, 2"):
            assert words in text, words
        assert "the loss is not finite" in text and "missing" in text
        assert "TEST IMAGES OVERLAP" not in text
    markdown = (results / "report.md").read_text()
    row = (
        "| iss-j | 1 to 2 | **77.0 [85.2]** | 71.0 ± 2.8 [78.3] (2 of 3) | **60.0 [80.8] (1 of 2)** | **79.0 [81.3]** |"
    )
    assert row in markdown
    assert "`eclipse bench grid.toml --out RESULTS`" in markdown


def test_programs_get_every_place_of_the_table(results: Path) -> None:
    write_report(results)
    with (results / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(row["attack"], row["defense"]): row for row in rows}
    assert len(rows) == len(found) == len(section(results).entries)
    row = found["em", "iss-j"]
    assert (row["victim"], row["recipe"], row["seeds"], row["seeds asked for"]) == ("small", "fast", "2", "3")
    assert (row["accuracy"], row["recovery"], row["paper's accuracy"]) == ("0.7100", "0.8500", "0.7835")
    assert found["em", "aa"]["accuracy"] == "" and found["urp", "iss-j"]["recovery"] == ""


def test_a_name_is_no_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    names = ("=cmd|' /C calc'!A0", "+1", "-1", "@x", 'a "quoted, name"\nand a line')
    cells = [result("clean", name, 0, 0.8) for name in names]
    text = next(path for path in write_report(write_results(tmp_path / "r", cells).path) if path.suffix == ".csv")
    defenses = [row[3] for row in csv.reader(text.read_text(encoding="utf-8").splitlines())][1:]
    assert sorted(defenses) == sorted((*(f"'{name}" for name in names[:4]), 'a "quoted, name" and a line'))


def test_the_chart_has_the_defenses_whose_cost_and_recovery_are_known(results: Path, tmp_path: Path) -> None:
    assert [(place.name, place.lost, place.recovery) for place in places(section(results))] == [
        ("iss-j", pytest.approx(3.0), pytest.approx((0.85 + 0.5) / 2)),
        ("trusted-only", pytest.approx(40.0), pytest.approx(1 / 6)),
    ]
    assert "iss-j</text>" in texts(results)[".html"]
    alone = write_results(tmp_path / "alone", [result("clean", "none", 0, 0.8)]).path
    assert "What defenses cost" not in texts(alone)[".html"]


def test_labels_of_a_chart_do_not_lie_on_each_other() -> None:
    names = [f"defense-{i}" for i in range(9)]
    marks = [(200 + 5 * i, 150 + 3 * i) for i in range(9)]
    places = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(marks, offsets(names, marks, (0, 0, 400, 300)), strict=True)]
    for i, (x, y) in enumerate(places):
        assert all(abs(x - other_x) >= 45 or abs(y - other_y) >= 10 for other_x, other_y in places[:i])
        assert 0 <= x <= 350 and 0 <= y <= 300


def test_the_protocol_of_the_paper_is_told_loudly(tmp_path: Path) -> None:
    cells = [replace(one, protocol=OVERLAP) for one in grid()]
    for text in texts(write_results(tmp_path / "r", cells).path).values():
        assert "The test images overlap with the trusted images" in text
        assert "TEST IMAGES OVERLAP" in text


def test_other_victims_and_recipes_have_sections_of_their_own(tmp_path: Path) -> None:
    cells = [
        result("clean", "none", 0, 0.8),
        result("clean", "none", 0, 0.9, arch="vgg19"),
        result("clean", "none", 0, 0.7, recipe="paper", cell="another"),
    ]
    found = make_sections(read_results(write_results(tmp_path / "r", cells).path))
    assert [(part.arch, part.recipe) for part in found] == [("small", "fast"), ("vgg19", "fast"), ("small", "paper")]
    assert [part.mean("clean", "none") for part in found] == [0.8, 0.9, 0.7]
    assert texts(tmp_path / "r")[".html"].count("<h2>Victim") == 3


def test_cells_of_other_settings_are_left_out_and_counted(results: Path) -> None:
    Folder(results).keep(result("em", "none", 0, 0.99, cell="em-none-small-0-ffffffff"))
    assert section(results).mean("em", "none") == pytest.approx(0.20)
    assert "left out: 1" in texts(results)[".md"]


def test_a_poison_that_was_made_twice_is_told(results: Path) -> None:
    assert "same images" not in texts(results)[".md"]
    for number, fingerprint in enumerate(("another set", "set of em")):
        other = result("em", "none", 0, 0.2)
        Folder(results).keep(replace(other, attack=replace(other.attack, fingerprint=fingerprint)))
        told = "Not all cells of a column are of the same images: em was made more than once."
        assert [told in text for text in texts(results).values()] == [number == 0] * 3


def test_a_cell_that_failed_before_and_then_finished_is_finished(results: Path) -> None:
    fail(results, result("em", "none", 0, 0).cell, "an old failure")
    assert "an old failure" not in texts(results)[".md"]
    assert "15 of 18 cells are finished, 1 failed, 2 missing." in texts(results)[".md"]


def test_the_same_cells_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_report(results)]
    lines = Folder(results).cells.read_bytes().splitlines(keepends=True)
    Folder(results).cells.write_bytes(b"".join(reversed(lines)))
    assert [path.read_bytes() for path in write_report(results, tmp_path / "new" / "folder")] == first
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "report.csv",
        "report.html",
        "report.md",
        "report.tex",
    ]


# Hostile results


class Tags(HTMLParser):
    """Collects the tags of a page, their attributes and their balance."""

    VOID = ("meta", "link", "path", "polyline", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags = set[str]()
        self.attributes = dict[str, set[str]]()
        self.open = list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile(value: Any) -> Any:
    """The same JSON with every free text replaced."""
    if isinstance(value, dict):
        return {name: hostile(inner) for name, inner in value.items()} | (
            {HOSTILE: HOSTILE} if "steps" in value or "python" in value else {}
        )
    return HOSTILE if isinstance(value, str) else value


@pytest.fixture
def hostile_results(tmp_path: Path) -> Path:
    cells = []
    for number, names in enumerate((("clean", "none"), ("em", "none"), ("em", "x"))):
        bad = hostile(asdict(result(*names, 0, 0.8 - 0.3 * number)))
        bad["cell"] = f"cell{number}"
        bad["attack"]["name"] = "clean" if number == 0 else HOSTILE
        bad["defense"]["name"] = "none" if number < 2 else HOSTILE
        bad["data"]["name"] = f"CIFAR-10 {HOSTILE}"
        cells.append(bad)
    cells[2]["attack"]["radius"] = None
    planned = [plan(one) for one in cells]
    planned += [{**planned[2], "cell": HOSTILE, "seed": 5}, {**planned[2], "cell": "broken", "seed": 6}]
    folder = Folder(tmp_path / "hostile")
    folder.path.mkdir()
    folder.grid.write_text(json.dumps({"version": 1, "name": HOSTILE, "protocol": "x", "data": {}, "cells": planned}))
    folder.cells.write_text("".join(f"{json.dumps(one)}\n" for one in cells))
    fail(folder.path, "broken", HOSTILE)
    return folder.path


def plan(of: dict[str, Any]) -> dict[str, Any]:
    return {
        **{"cell": of["cell"], "attack": of["attack"]["name"], "defense": of["defense"]["name"]},
        **{"arch": of["victim"]["arch"], "recipe": of["recipe"]["name"], "seed": of["seed"]},
    }


def test_hostile_text_adds_no_tag_to_the_page(results: Path, hostile_results: Path) -> None:
    page = texts(hostile_results)[".html"]
    good, bad = Tags(texts(results)[".html"]), Tags(page)
    assert bad.tags <= good.tags and set(bad.attributes) <= set(good.attributes)
    assert not bad.open and not {"img", "script", "iframe", "a"} & bad.tags
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "\x00" not in page and "\u202e" not in page


def test_hostile_text_is_only_text_in_markdown(hostile_results: Path) -> None:
    source = texts(hostile_results)[".md"]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
    tags = Tags(page)
    assert tags.tags <= {"h1", "h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code"}
    for table in re.findall(r"(?:^\|.*\n)+", source, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1  # no bar splits a cell
    assert "&lt;img src=x onerror=alert(1)&gt;|`*[a](http://b)_\\| \\input{/etc/passwd}" in page


def test_hostile_text_is_only_text_in_latex(results: Path, hostile_results: Path) -> None:
    def commands(text: str) -> set[str]:
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        return set(re.findall(r"\\[a-zA-Z]+|[\^~]", body.replace(r"\\", "")))

    source = texts(hostile_results)[".tex"]
    characters = {f"\\text{name}" for name in ("backslash", "less", "greater", "bar", "asciigrave", "quotedbl")}
    characters |= {f"\\text{name}" for name in ("asciicircum", "asciitilde", "quotesingle")}
    assert commands(source) - commands(texts(results)[".tex"]) <= characters
    assert r"\textbackslash{}input\{/etc/passwd\}\%\$" in source
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", source):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    for table in source.split(r"\begin{tabular}")[1:]:
        columns = len(table[1 : table.index("}")])
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)


def test_the_page_needs_nothing_beside_itself(results: Path) -> None:
    page = texts(results)[".html"]
    assert not re.search(r"(?:src|href|url|@import)\s*[=(]\s*(?![\"']?(?:data:|#))", page)
    assert "default-src 'none'" in page and "<script" not in page


# Damaged results


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, name)
        if isinstance(inner, dict | list):
            yield from paths_of(inner, (*path, name))


WHOLE: dict[str, Any] = json.loads(json.dumps(asdict(result("em", "iss-j", 0, 0.7))))
BAD = (..., None, "", "x", [], {}, True, -1, 1e400, float("nan"), 10**400, [HOSTILE], {"a": None})


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The whole cell with another value at one place, or none for ``...``."""
    broken = copy.deepcopy(WHOLE)
    owner: Any = broken
    for name in path[:-1]:
        owner = owner[name]
    if value is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return broken


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The results of two cells, of which the last is ``WHOLE``."""
    return write_results(tmp_path / "r", [result("clean", "none", 0, 0.8), result("em", "iss-j", 0, 0.7)]).path


def change_last(path: Path, line: bytes) -> None:
    file = Folder(path).cells
    file.write_bytes(b"%b\n%b\n" % (file.read_bytes().splitlines()[0], line))


@pytest.mark.parametrize("part", WHOLE)
def test_a_damaged_cell_is_named_and_never_crashes(part: str, two: Path) -> None:
    for path in [path for path in paths_of(WHOLE) if path[0] == part]:
        for bad in BAD:
            change_last(two, json.dumps(changed(path, bad)).encode())
            try:
                found = read_results(two)
            except EclipseError as error:
                assert "cells.jsonl, line 2 " in one_sentence(error)
            else:
                render_markdown(found, make_sections(found))
    with suppress(EclipseError):
        write_report(two)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("accuracy",), 1.01),
        (("accuracy",), float("nan")),
        (("accuracy",), True),
        (("accuracy",), "0.5"),
        (("epochs", 0, "accuracy"), 7),
        (("epochs",), {}),
        (("seconds", "train"), -1),
        (("seconds",), []),
        (("seed",), 0.5),
        (("seed",), -1),
        (("data", "name"), ""),
        (("data", "image"), ["x"]),
        (("attack", "radius"), 10**400),
        (("defense", "name"), "iss-g"),
        (("device",), None),
    ],
    ids=str,
)
def test_values_that_no_runner_writes_are_refused(path: tuple[Any, ...], value: Any, two: Path) -> None:
    change_last(two, json.dumps(changed(path, value)).encode())
    with pytest.raises(EclipseError, match=rf"line 2 is damaged.*{path[-1]}") as error:
        write_report(two)
    one_sentence(error.value)
    assert not (two / "report.md").exists()


@pytest.mark.parametrize("name", [name for name in WHOLE if name not in ("precision", "prepared")])
def test_a_cell_without_one_of_its_parts_is_damaged(name: str, two: Path) -> None:
    rest = {key: value for key, value in WHOLE.items() if key != name}
    change_last(two, json.dumps(rest).encode())
    with pytest.raises(EclipseError, match=f"'{name}' is missing"):
        write_report(two)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_cell_that_is_no_json_object_is_damaged(content: bytes, two: Path) -> None:
    change_last(two, content)
    with pytest.raises(EclipseError, match=r"cells\.jsonl, line 2 is damaged") as error:
        write_report(two)
    one_sentence(error.value)


def no_folder(folder: Path) -> Path:
    return folder / "nowhere"


def no_grid(folder: Path) -> Path:
    (folder / "grid.json").unlink()
    return folder


def other_version(folder: Path) -> Path:
    (folder / "grid.json").write_text(json.dumps({"version": 2, "name": "x", "protocol": "held-out", "cells": []}))
    return folder


def no_cell(folder: Path) -> Path:
    Folder(folder).cells.unlink()
    return folder


def same_cell_twice(folder: Path) -> Path:
    content = json.loads((folder / "grid.json").read_text())
    content["cells"].append({**content["cells"][0], "cell": "again"})
    (folder / "grid.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_folder, "is not there"),
        (no_grid, "no grid.json"),
        (other_version, "version 2"),
        (no_cell, "no cell"),
        (same_cell_twice, "the same cell"),
    ],
)
def test_what_is_no_results_is_refused_by_the_command(
    spoil: Callable[[Path], Path], words: str, results: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    assert words in refusal(command("report", spoil(results)))


def test_an_output_that_is_a_file_is_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EclipseError, match="is a file; expected a folder"):
        write_report(results, tmp_path / "file")


def test_the_command_writes_and_names_its_files(
    results: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    said = command("report", results, "--out", tmp_path / "out")
    assert said.code == 0
    assert said.out.splitlines() == [
        f"wrote {tmp_path / 'out' / f'report.{end}'}" for end in ("md", "tex", "csv", "html")
    ]
    assert not (results / "report.md").exists()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command under its name, whatever else is registered."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("report", help=HELP)(report)
    app.callback()(lambda: None)
    monkeypatch.setattr(cli, "app", app)
