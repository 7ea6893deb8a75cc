"""A report as LaTeX: tables to ``\\input`` into a paper."""

import re
from collections.abc import Iterable, Sequence

from eclipse.bench.result import Results
from eclipse.report.grid import wording
from eclipse.report.grid.figures import Section
from eclipse.report.grid.sheets import Sheet, Value, sheets, unfinished

_HEAD = r"""% Tables for \input{report}; in the preamble:
% \usepackage[T1]{fontenc} \usepackage[utf8]{inputenc} \usepackage{textcomp,booktabs,graphicx}
"""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "-{}",  # two of them would become a dash
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"$^\dagger$",
}


def render_latex(results: Results, sections: Iterable[Section]) -> str:
    """Write the tables."""
    parts = [_HEAD]
    if wording.overlaps(results):
        parts.append(
            rf"\par\noindent\fbox{{\parbox{{0.95\linewidth}}{{\textbf{{Warning.}} {escape(wording.WARNING)}}}}}"
        )
    parts.append(rf"\par\noindent {escape(f'Benchmark {results.name}: {wording.progress(results)}')}")
    for section in sections:
        commands = " and ".join(rf"\texttt{{{escape(command)}}}" for command in wording.commands(section.cells))
        about = f"{escape(wording.caption(section))}. Command: {commands}."
        parts += [_table(sheet, about) for sheet in sheets(section)]
    rest = unfinished(results)
    if rest.rows:
        parts.append(_table(rest, "Their commands are in the last column."))
    return "\n".join(parts)


def escape(text: str) -> str:
    """Text that LaTeX sets as it is; characters beyond Latin-1 by their number, for any engine."""
    return "".join(map(_escaped, re.sub(r"(?<![\w.-])-(?=[\d.])", "\N{MINUS SIGN}", text)))


def _escaped(character: str) -> str:
    if character == "\N{MINUS SIGN}":
        return "$-$"
    if character in _SPECIAL:
        return _SPECIAL[character]
    return character if " " <= character <= "~" or "À" <= character <= "ÿ" else f"{{[U+{ord(character):04X}]}}"


def _table(sheet: Sheet, about: str) -> str:
    columns = "".join("l" if column in sheet.words else "r" for column in range(len(sheet.head)))
    return "\n".join(
        [
            r"\begin{table*}[tbp]",
            r"\centering\sloppy",
            rf"\caption{{{escape(sheet.title)}. {about} {' '.join(map(escape, sheet.notes))}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escape, sheet.head)) + r" \\",
            r"\midrule",
            *(_row(row, sheet.words) + r" \\" for row in sheet.rows),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


def _row(row: Sequence[Value], words: Sequence[int]) -> str:
    texts = [_value(value, column not in words) for column, value in enumerate(row)]
    line = " & ".join(texts)
    return f"{{}}{line}" if line.startswith(("[", "*")) else line  # the line before would take them for its options


def _value(value: Value, number: bool) -> str:
    """A value; what stands beside a number is small, so that wide tables keep a readable size."""
    first, _, rest = value.text.partition(" ")
    main = escape(first if number else value.text)
    shown = rf"\textbf{{{main}}}" if value.best else main
    return rf"{shown} {{\scriptsize {escape(rest)}}}" if number and rest else shown
