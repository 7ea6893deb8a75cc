"""The command line: one file a command; mistakes of the user end in one sentence and exit code 2."""

import errno
import signal
import sys
import warnings
from importlib import metadata
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from eclipse.cli import (
    audit,
    bench,
    choose,
    demo,
    denoiser,
    doctor,
    explain,
    methods,
    poison,
    preview,
    purify,
    report,
    train,
    verify,
)
from eclipse.compute.memory import keep_freed_memory
from eclipse.errors import EclipseError, escaped, is_utf8
from eclipse.runs.files import check_local


class _Commands(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is caught here, because typer would end the process without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stop("interrupted", signal.SIGINT)


app = typer.Typer(
    name="eclipse",
    cls=_Commands,
    help="Purify image training sets that may carry invisible poisons ('unlearnable examples').\n\n"
    "Start with: eclipse purify IMAGES --trusted CLEAN --out PURIFIED",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"eclipse {metadata.version('eclipse-purify')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and stop", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Take what concerns no command."""


app.command("purify", help=purify.HELP)(purify.purify)
app.command("preview", help=preview.HELP)(preview.preview)
app.command("audit", help=audit.HELP)(audit.audit)
app.command("choose", help=choose.HELP)(choose.choose)
app.command("detectors", help=methods.DETECTORS_HELP)(methods.detectors)
app.command("poison", help=poison.HELP)(poison.poison)
app.command("verify", help=verify.HELP)(verify.verify)
app.command("attacks", help=methods.ATTACKS.help)(methods.ATTACKS)
app.command("explain", help=explain.HELP)(explain.explain)
app.command("train", help=train.HELP)(train.train)
app.command("defenses", help=methods.DEFENSES.help)(methods.DEFENSES)
app.command("bench", help=bench.HELP)(bench.bench)
app.command("report", help=report.HELP)(report.report)
app.add_typer(denoiser.app, name="denoiser")
app.command("demo", help=demo.HELP)(demo.demo)
app.command("doctor", help=doctor.HELP)(doctor.doctor)


def main() -> None:
    """Run the command line; the entry point of the package."""
    signal.signal(signal.SIGTERM, _terminated)
    keep_freed_memory()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # Python's warnings are for programmers; python -W brings them back
    for word in sys.argv:
        if not is_utf8(word):
            fail(f"the argument {word!a} is not UTF-8; expected text that is: rename what it names")
    try:
        for word in sys.argv[1:]:
            check_local(word.rpartition("=")[2])
        app()
    except EclipseError as error:
        fail(str(error))
    except OSError as error:
        fail(_os_sentence(error))


def _terminated(number: int, frame: FrameType | None) -> None:
    """End as with Ctrl-C, through every ``finally``: workers must not outlive their command, nor locks stay."""
    stop("terminated", number)


def stop(how: str, number: int) -> NoReturn:
    """Say that a signal ended the command, and leave with the code that shells give for it."""
    print(f"eclipse: {how}; the same command {_again()}", file=sys.stderr)
    sys.exit(128 + number)


def _again() -> str:
    """What the command that runs does when it is given again."""
    return "goes on where it was" if set(sys.argv[1:2]) & _GOES_ON else "begins anew"


def fail(message: str) -> None:
    """Say what is wrong in one sentence and leave with code 2."""
    print("eclipse:", escaped(" ".join(message.splitlines())), file=sys.stderr)  # names of files may have line breaks
    sys.exit(2)


_GOES_ON = {"purify", "audit", "choose", "explain", "poison", "train", "bench", "denoiser"}
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EROFS: "the target is read-only: choose another output",
    errno.EACCES: "permission denied: choose a place that you may read and write",
    errno.EPERM: "not permitted: choose a place that you may read and write",
    errno.ENOTDIR: "a part of this path is a file: choose another place",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ENOENT: "it has vanished: put it back and run the same command again",
}


def _os_sentence(error: OSError) -> str:
    what = f"{error.filename}: " if error.filename else ""
    remedy = "mend that and run the same command again"
    return what + _REMEDIES.get(error.errno or 0, f"{error.strerror or error}: {remedy}")
