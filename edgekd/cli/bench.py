"""`edgekd bench`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from edgekd.cli import options

if TYPE_CHECKING:
    from pathlib import Path

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
@click.option("--device", default="local", show_default=True, metavar="NAME")
@click.option(
    "--threads", type=Counts(), default=(1,), metavar="N,N", help="Threads to measure with (1 to 256).  [default: 1]"
)
@click.option("--duration", type=Seconds(), metavar="10s", help="Time of the runs of one model.  [default: 2s]")
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="Number of runs of one model.")
@click.option("--data", type=options.FILE, metavar="FILE.npz", help="Inputs; made up from their types by default.")
@click.option("--dim", "dims", type=Dimension(), multiple=True, metavar="AXIS=N", help="Extent of a free axis.")
@options.json_file
def command(
    models: tuple[Path, ...],
    device: str,
    threads: tuple[int, ...],
    duration: float | None,
    runs: int | None,
    data: Path | None,
    dims: tuple[tuple[str, int], ...],
    json_path: Path | None,
) -> None:
    """Measure latency and memory of models.

    Each model runs in fresh processes, in turn with the others; later ones are compared with the first.
    """
    from edgekd.benchmarking.bench import bench
    from edgekd.cli import ui
    from edgekd.doctor import saturation_note

    if duration is not None and runs is not None:
        raise click.UsageError("give either --duration or --runs")
    options.claim({"--json": json_path}, [*models, data])
    progress = ui.progress()
    result = bench(
        models,
        device=device,
        threads=threads,
        duration_s=duration,
        runs=runs,
        data=data,
        dims=dict(dims),
        progress=progress,
    )
    content = result.to_json()
    options.show_and_write(lambda: ui.bench_table(content), json_path, content)
    for model in models:
        options.tell(progress, saturation_note(model, content["device"]["target"]))
