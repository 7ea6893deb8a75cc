"""``eclipse bench``."""

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eclipse.cli.command import JsonLines

if TYPE_CHECKING:
    from eclipse.bench.cell import Bench
    from eclipse.bench.cost import Expected

HELP = """Run a grid of attacks, defenses, victims and seeds, cell by cell; only what is missing.

    eclipse bench GRID.toml --data DATA --out RESULTS

eclipse report RESULTS

GRID.toml names data, attacks or poisons of others, defenses, victims and seeds: see benchmarks/cpu.toml. Its data sets
are looked for in DATA. RESULTS gets one line a cell, in cells.jsonl. Stop it at any time (Ctrl-C): the same command
goes on. Finished cells are skipped, and one that breaks leaves its reason in failed.jsonl and does not stop the rest. A
cell under other settings is another cell. Of two lines for a cell the last one counts, so cat joins the results of two
machines.

--cell picks cells: em (an attack), em/eclipse, em/eclipse/small/0, \\*/eclipse (a defense under all attacks), or the
whole name of a cell.
"""


def bench(
    grid: Annotated[Path, typer.Argument(help="a TOML file", metavar="GRID")],
    out: Annotated[Path, typer.Option(help="folder of the results; may hold some of this grid")],
    data: Annotated[Path, typer.Option(help="folder that the paths of the grid are relative to")] = Path("."),
    cell: Annotated[list[str] | None, typer.Option(help="only these cells; repeatable", metavar="NAME")] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="cells at a time; each gets its share of the cores, whose number a result depends on a little"
        ),
    ] = 1,
    cache: Annotated[
        Path | None, typer.Option(help="folder of poisons, denoisers and prepared sets", show_default="OUT/.cache")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the missing cells and their cost, then stop")
    ] = False,
    json_lines: JsonLines = False,
) -> None:
    """Run a grid."""
    from eclipse.bench.plan import plan
    from eclipse.bench.runner import CellStep, run_cells
    from eclipse.cli.show import Show, facts, say
    from eclipse.errors import escaped
    from eclipse.runs.manifest import to_copy

    asked = plan(grid, data, out, cells=cell or (), cache=cache, device=device)
    shown = to_copy("eclipse", "report", out)
    facts("settings", asked.in_words())
    say(*(f"note: {note}" for note in asked.notes()))
    if dry_run:
        _tell_cost(asked.bench, asked.cost())
        return
    if not asked.missing:
        with asked.results.writing(asked.bench.asked()):  # a report shows the grid that was asked for last
            pass
        say(f"all cells are done already; next: {shown}")
        return
    asked.keep_sets()
    total, ended = len(asked.missing), itertools.count(1)

    def tell(event: CellStep) -> None:
        show.cell(event, next(ended) if event.step is None else 0, total)

    with Show(as_json=json_lines) as show:
        broken = run_cells(asked.bench, asked.results, asked.missing, jobs, tell)
    say(f"{total - broken} of {total} cells done; next: {shown}")
    if broken:
        sentence = f"eclipse: {broken} cells broke, see {asked.results.failed}; the same command tries again"
        print(escaped(sentence), file=sys.stderr)
        raise typer.Exit(1)


def _tell_cost(bench: "Bench", cost: "Expected") -> None:
    """Print the missing cells, each with its minutes, and the minutes of what they share."""
    from eclipse.cli.show import columns, say

    columns(("cell", "minutes"), [(bench.name(cell), f"{minutes:.1f}") for cell, minutes in cost.cells.items()])
    for what, of, parts in (
        ("poisons, each crafted once", "attack", cost.poisons),
        ("sets that defenses prepare, each once", "defense", cost.prepared),
    ):
        if parts:
            print(f"\n{what}")
            columns((of, "minutes"), [(name, f"{minutes:.1f}") for name, minutes in parts.items()])
    print(f"\nabout {cost.minutes / 60:.1f} hours in one process")
    if cost.unsure:
        say(f"and what these prepare, known when a cell of each is finished: {', '.join(cost.unsure)}")
