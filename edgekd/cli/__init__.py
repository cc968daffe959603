"""The command line: a thin skin over the library. One file a verb, loaded when that verb is asked for."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any, Final

import click

import edgekd
from edgekd.errors import EdgekdError

VERBS: Final = ("run", "distill", "export", "quantize", "evaluate", "bench", "compare", "report", "devices", "recipe")


class Verbs(click.Group):
    """A group whose commands live in modules of their own names."""

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
    "5 device, 6 a missing extra.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(edgekd.__version__, prog_name="edgekd")
def cli(debug: bool) -> None:
    """From a large teacher to a verified INT8 ONNX model on a device."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of what happened."""
    given = sys.argv[1:] if arguments is None else arguments
    # --debug is understood wherever it stands
    debug = "--debug" in given
    sys.exit(_run(["--debug"] * debug + [word for word in given if word != "--debug"], debug=debug))


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        result: Any = cli.main(args=arguments, prog_name="edgekd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("edgekd: interrupted; the same command continues", err=True)
        return 130
    except EdgekdError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"edgekd: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # keep the interpreter's own flush quiet
        return 0
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"edgekd: a fault of edgekd itself: {type(error).__name__}: {error}\n"
            "Run it again with --debug to see where, and please report it.",
            err=True,
        )
        return 1
    return result if isinstance(result, int) else 0
