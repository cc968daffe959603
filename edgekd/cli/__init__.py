"""The command line: a thin skin over the library. One file a verb, loaded when that verb is asked for."""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from contextlib import suppress
from typing import Any, Final

import click

import edgekd
from edgekd.cli.process import SIGINT, SIGPIPE, Ended, ends_told, settle_streams, surroundings
from edgekd.errors import EdgekdError
from edgekd.launch import launched, leave

VERBS: Final = (
    *("run", "distill", "export", "quantize", "evaluate", "bench", "compare", "bundle", "report"),
    *("devices", "doctor", "recipe"),
)


class Verbs(click.Group):
    """A group whose commands live in modules of their own names."""

    def make_context(self, *given: Any, **settings: Any) -> click.Context:
        """Read the arguments; this also prints help."""
        with ends_told():
            return super().make_context(*given, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with ends_told():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the verbs in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load a verb's module, which imports nothing but click until it runs."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"edgekd.cli.{cmd_name}").command
        return command


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 good, 1 a fault of edgekd, 2 usage or recipe, 3 data or model, 4 a gate not met, "
    "5 device, 6 a missing extra, 128 + N ended by signal N.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and what libraries say.")
@click.version_option(edgekd.__version__, prog_name="edgekd")
def cli(debug: bool) -> None:
    """From a large teacher to a verified INT8 ONNX model on a device."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of what happened."""
    given = sys.argv[1:] if arguments is None else arguments
    # --debug is understood wherever it stands
    debug = "--debug" in given
    code = _run(["--debug"] * debug + [word for word in given if word != "--debug"], debug=debug)
    settle_streams()
    leave(code)


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        with ends_told(), surroundings(debug=debug):
            result: Any = cli.main(args=arguments, prog_name="edgekd", standalone_mode=False)
    except BaseException as error:
        code, message = _outcome(_end_behind(error) or error)
        if debug and code == EdgekdError.exit_code:
            raise
        with suppress(OSError):  # nobody may be listening
            if debug and not isinstance(error, click.ClickException):
                traceback.print_exc()
            if message and _may_say(message, error):
                click.echo(message, err=True)
        return code
    return result if isinstance(result, int) else 0


def _may_say(message: str, error: BaseException) -> bool:
    """Return whether this process is to say it: of several that train together one does."""
    place = launched()
    if place.size == 1:
        return True
    if isinstance(error, Ended):
        return place.is_main
    from edgekd.distillation.processes import first_to_say

    return first_to_say(message)


def _end_behind(error: BaseException) -> BaseException | None:
    """Return the end that was asked for behind an error: a library interrupted while it loads says ImportError."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Ended | KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return Ended(SIGINT) if isinstance(cause, KeyboardInterrupt) else cause


def _outcome(error: BaseException) -> tuple[int, str]:
    """Return the exit code of what ended a command, and the message, if it needs one."""
    match error:
        case EdgekdError():
            return error.exit_code, f"edgekd: {error}"
        case click.ClickException():
            shown = io.StringIO()
            error.show(shown)
            return error.exit_code, shown.getvalue().rstrip("\n")
        case Ended(number=number):
            told = "nothing is left half-written, and the same command can be run again"
            return 128 + number, "" if number == SIGPIPE else f"edgekd: interrupted; {told}"
        case SystemExit(code=int(code)):
            return code, ""
        case MemoryError():
            told = f": {error}" if str(error) else ""
            advice = "smaller samples, fewer of them or a smaller batch_size need less"
            return 5, f"edgekd: this machine's memory is not enough{told}; {advice}"
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return 2, f"edgekd: {where}{error.strerror or error} (--debug shows where)"
        case _:
            return EdgekdError.exit_code, (
                f"edgekd: a fault of edgekd itself: {type(error).__name__}: {error}\n"
                "Run it again with --debug to see where, and please report it."
            )
