"""`edgekd bench`."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import click

from edgekd.cli import options
from edgekd.errors import DeviceError, EdgekdError
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgekd.benchmarking.pacing import PacedResult
    from edgekd.benchmarking.results import BenchResult
    from edgekd.progress import Progress

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


class Seconds(click.ParamType[float]):
    """A duration such as `10s`, `500ms` or `2m`."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it in seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r}: expected a duration such as 10s, 500ms or 2m", param, ctx)
        return float(match[1]) * _UNITS_S[match[2]]


class Rate(click.ParamType[float]):
    """How often inputs come in, such as `10/s`."""

    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it in inputs a second."""
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)/s", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r}: expected a rate such as 10/s or 0.5/s", param, ctx)
        return float(match[1])


class Counts(click.ParamType[tuple[int, ...]]):
    """Numbers such as `1,2,4`."""

    name = "counts"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return them as integers."""
        if isinstance(value, tuple):
            return value
        if re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*", value) is None:
            self.fail(f"{value!r}: expected numbers of threads such as 1,2,4", param, ctx)
        return tuple(int(number) for number in value.split(","))


class Dimension(click.ParamType[tuple[str, int]]):
    """An axis and its extent, such as `batch=1`."""

    name = "dimension"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return name and extent."""
        if isinstance(value, tuple):
            return value
        name, _, extent = value.partition("=")
        if not name or re.fullmatch(r"[1-9]\d{0,8}", extent) is None:
            self.fail(f"{value!r}: expected an axis and its extent, such as batch=1", param, ctx)
        return name, int(extent)


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=options.FILE, metavar="MODEL...")
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="Where to measure; may be repeated.  [default: local]"
)
@click.option(
    "--threads", type=Counts(), default=(1,), metavar="N,N", help="Threads to measure with (1 to 256).  [default: 1]"
)
@click.option("--duration", type=Seconds(), metavar="10s", help="Time of the runs of one model.  [default: 2s]")
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="Number of runs of one model.")
@click.option("--data", type=options.FILE, metavar="FILE.npz", help="Inputs; made up from their types by default.")
@click.option("--dim", "dims", type=Dimension(), multiple=True, metavar="AXIS=N", help="Extent of a free axis.")
@click.option("--rate", type=Rate(), metavar="10/s", help="Measure at this pace of inputs, as of a camera.")
@click.option(
    "--arena",
    type=click.Choice(["on", "off"]),
    default="on",
    help="Whether the memory of freed tensors is kept for the next ones.  [default: on]",
)
@options.json_file
def command(
    models: tuple[Path, ...],
    devices: tuple[str, ...],
    threads: tuple[int, ...],
    duration: float | None,
    runs: int | None,
    data: Path | None,
    dims: tuple[tuple[str, int], ...],
    rate: float | None,
    arena: str,
    json_path: Path | None,
) -> None:
    """Measure latency and memory of models.

    Each model runs in fresh processes, in turn with the others; later ones are compared with the first. Several
    devices measure at the same time; --json FILE.json then writes FILE.NAME.json for each.

    With --rate inputs come in at that pace. Each model then has two rows, with threads that spin while they wait and
    with threads that sleep: how late its answers are, how many deadlines it misses, and what CPU time it takes.
    """
    from edgekd.benchmarking.bench import bench
    from edgekd.benchmarking.pacing import pace
    from edgekd.benchmarking.parallel import on_devices
    from edgekd.cli import ui

    if duration is not None and runs is not None:
        raise click.UsageError("give either --duration or --runs")

    verb = bench if rate is None else partial(pace, rate_per_s=rate)

    def measure(device: str, progress: Progress) -> BenchResult | PacedResult:
        return verb(
            models,
            device=device,
            threads=threads,
            duration_s=duration,
            runs=runs,
            data=data,
            dims=dict(dims),
            arena=arena == "on",
            progress=progress,
        )

    names = list(dict.fromkeys(devices)) or ["local"]
    places = {name: _place(json_path, name, alone=len(names) == 1) for name in names}
    label = "--json" if len(names) == 1 else "--json for {}"
    options.claim({label.format(name): place for name, place in places.items()}, [*models, data])
    if len(names) == 1:
        _show(measure(names[0], ui.progress()), models, json_path)
        return
    failures: list[EdgekdError] = []
    for name, found in on_devices(names, measure, ui.progress()).items():
        if isinstance(found, EdgekdError):
            failures.append(found)
        else:
            _show(found, models, places[name])
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures)
        kind = next((type(failure) for failure in failures if isinstance(failure, DeviceError)), type(failures[0]))
        raise kind(f"{counted(len(failures), 'device')} of {len(names)} failed:\n{listed}")


def _place(json_path: Path | None, device: str, *, alone: bool) -> Path | None:
    """Return where a device's result goes: the file itself, or one beside it that is named after the device."""
    from edgekd.artifact import is_stream

    if json_path is None or alone or is_stream(json_path):
        return json_path
    return json_path.with_name(f"{json_path.stem}.{device}{json_path.suffix}")


def _show(result: BenchResult | PacedResult, models: Sequence[Path], json_path: Path | None) -> None:
    from edgekd.cli import ui
    from edgekd.doctor import saturation_note

    content = result.to_json()
    table = ui.paced_table if "rate_per_s" in content else ui.bench_table
    options.show_and_write(lambda: table(content), json_path, content)
    for model in models:
        options.tell(ui.progress(), saturation_note(model, content["device"]["target"]))
