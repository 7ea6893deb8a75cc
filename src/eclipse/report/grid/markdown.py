"""A report as Markdown."""

import re
from collections.abc import Iterable, Sequence

from eclipse.bench.result import Results
from eclipse.report.grid import wording
from eclipse.report.grid.figures import Section
from eclipse.report.grid.sheets import Sheet, Value, sheets, unfinished

# Entities, because a backslash does not work in all places and dialects, and a table splits at a bar in spite of it.
_SPECIAL = str.maketrans({character: f"&#{ord(character)};" for character in "\\`*_[]<>&|~$#!"})
_NUMBER = re.compile(r"&#91;(-?[\d.]+)&#93;(?![:(&])")  # in brackets, and no part of a link


def render_markdown(results: Results, sections: Iterable[Section]) -> str:
    """Write the report."""
    parts = [f"# Benchmark {escape(results.name)}"]
    if wording.overlaps(results):
        parts.append(f"> **WARNING.** {escape(wording.WARNING)}")
    parts.append(escape(wording.progress(results)))
    for section in sections:
        parts += _section(section)
    rest = unfinished(results)
    if rest.rows:
        parts += [f"## {rest.title}", _table(rest)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return _NUMBER.sub(r"[\1]", text.translate(_SPECIAL))


def code(text: str) -> str:
    """Text in the type of programs; in a code span where nothing in it could end that."""
    safe = not set(text) & set("`|\\<>&") and text == text.strip()
    return f"`{text}`" if safe and text else f"<code>{escape(text)}</code>"


def _section(section: Section) -> list[str]:
    about = f"{escape(wording.caption(section))}. Command: {' and '.join(map(code, wording.commands(section.cells)))}"
    parts = [f"## Victim {escape(section.arch)}, recipe {escape(section.recipe)}"]
    for sheet in sheets(section):
        parts += [f"### {escape(sheet.title)}", about, _table(sheet), *map(escape, sheet.notes)]
    if section.cells:
        rows = [f"| {escape(name)} | {escape(text)} |" for name, text in wording.conditions(section)]
        parts += ["### Conditions", "\n".join(["| | |", "|---|---|", *rows])]
    return parts


def _table(sheet: Sheet) -> str:
    rule = ["---" if column in sheet.words else "--:" for column in range(len(sheet.head))]
    lines = [[escape(title) for title in sheet.head], rule, *(_row(row) for row in sheet.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(row: Sequence[Value]) -> list[str]:
    return [f"**{escape(value.text)}**" if value.best and value.text else escape(value.text) for value in row]
