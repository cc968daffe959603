"""`edgekd bench`."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgekd.cli import options
from edgekd.errors import DeviceError, EdgekdError
from edgekd.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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
    "--threads", type=Counts(), metavar="N,N", help="Threads to measure with, or for --tune to try.  [default: 1]"
)
@click.option("--duration", type=Seconds(), metavar="10s", help="Time of the runs of one model.  [default: 2s]")
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="Number of runs of one model.")
@click.option("--data", type=options.FILE, metavar="FILE.npz", help="Inputs; made up from their types by default.")
@click.option("--dim", "dims", type=Dimension(), multiple=True, metavar="AXIS=N", help="Extent of a free axis.")
@click.option("--rate", type=Rate(), metavar="10/s", help="Measure at this pace of inputs, as of a camera.")
@click.option(
    "--arena",
    type=click.Choice(["on", "off"]),
    help="Whether the memory of freed tensors is kept for the next ones.  [default: on]",
)
@click.option("--session", type=options.FILE, metavar="FILE", help="Measure with the settings that --tuned wrote.")
@click.option("--profile", is_flag=True, help="Also show where the time goes, by operator and by node.")
@click.option("--tune", "tunes", is_flag=True, help="Search for settings of the session that are faster here.")
@click.option("--tuned", type=options.FILE, metavar="FILE", help="Write the settings that --tune found here as JSON.")
@options.json_file
def command(
    models: tuple[Path, ...],
    devices: tuple[str, ...],
    threads: tuple[int, ...] | None,
    duration: float | None,
    runs: int | None,
    data: Path | None,
    dims: tuple[tuple[str, int], ...],
    rate: float | None,
    arena: str | None,
    session: Path | None,
    profile: bool,
    tunes: bool,
    tuned: Path | None,
    json_path: Path | None,
) -> None:
    """Measure latency and memory of models.

    Each model runs in fresh processes, in turn with the others; later ones are compared with the first. Several
    devices measure at the same time; --json FILE.json then writes FILE.NAME.json for each.

    With --rate inputs come in at that pace. Each model then has two rows, with threads that spin while they wait and
    with threads that sleep: how late its answers are, how many deadlines it misses, and what CPU time it takes.

    With --tune the settings of one model's session are varied: threads, optimization, spinning, arena. What it finds
    is faster than onnxruntime's own settings beyond the noise, or it says that these are as good.
    """
    _require_apart()
    if tunes and len(models) > 1:
        raise click.UsageError(f"--tune takes one model, got {len(models)}")
    if tuned is not None and not tunes:
        raise click.UsageError("--tuned is written by --tune: give both")
    verb = _verb(models, rate=rate, tunes=tunes)
    asked: dict[str, Any] = {"duration_s": duration, "data": data, "dims": dict(dims)}
    if tunes:
        asked |= {"threads": threads}
    else:
        asked |= {"threads": threads or (1,), "runs": runs, "arena": arena != "off"}
    if session is not None or profile:
        asked |= {"session": session, "profile": profile}

    def measure(device: str, progress: Progress) -> BenchResult | PacedResult:
        return verb(device=device, progress=progress, **asked)

    names = list(dict.fromkeys(devices)) or ["local"]
    results, settings = _places(json_path, names), _places(tuned, names)
    labels = {name: "" if len(names) == 1 else f" for {name}" for name in names}
    written = {f"--json{labels[name]}": place for name, place in results.items()}
    written |= {f"--tuned{labels[name]}": place for name, place in settings.items()}
    options.claim(written, [*models, data, session])
    _measure_on(names, measure, lambda name, found: _show(found, models, results[name], settings[name]))


_APART = {
    "--duration": ("--runs",),
    "--tune": ("--rate", "--runs", "--arena", "--session", "--profile"),
    "--rate": ("--session", "--profile"),
    "--session": ("--threads", "--arena"),
}


def _require_apart() -> None:
    """Refuse options that contradict each other."""
    context = click.get_current_context()
    values = {parameter.opts[0]: context.params[str(parameter.name)] for parameter in context.command.params}
    given = {option: value is not None and value is not False for option, value in values.items()}
    for option, others in _APART.items():
        for other in others:
            if given[option] and given[other]:
                raise click.UsageError(f"give either {option} or {other}")


def _verb(models: Sequence[Path], *, rate: float | None, tunes: bool) -> Callable[..., BenchResult | PacedResult]:
    """Return what is to be done with the models."""
    if tunes:
        from edgekd.benchmarking.tuning import tune

        return partial(tune, models[0])
    if rate is not None:
        from edgekd.benchmarking.pacing import pace

        return partial(pace, models, rate_per_s=rate)
    from edgekd.benchmarking.bench import bench

    return partial(bench, models)


def _places(path: Path | None, devices: Sequence[str]) -> dict[str, Path | None]:
    """Return where each device's result goes: the file itself, or one beside it that is named after the device."""
    from edgekd.artifact import is_stream

    if path is None or len(devices) == 1 or is_stream(path):
        return dict.fromkeys(devices, path)
    return {device: path.with_name(f"{path.stem}.{device}{path.suffix}") for device in devices}


def _measure_on(
    devices: Sequence[str],
    measure: Callable[[str, Progress], BenchResult | PacedResult],
    show: Callable[[str, BenchResult | PacedResult], None],
) -> None:
    """Measure on each device and show what it gave; the failures of several are told when the others have been."""
    from edgekd.benchmarking.parallel import on_devices
    from edgekd.cli import ui

    if len(devices) == 1:
        show(devices[0], measure(devices[0], ui.progress()))
        return
    failures: list[EdgekdError] = []
    for device, found in on_devices(devices, measure, ui.progress()).items():
        if isinstance(found, EdgekdError):
            failures.append(found)
        else:
            show(device, found)
    if failures:
        listed = "\n".join(f"  {failure}" for failure in failures)
        kind = next((type(failure) for failure in failures if isinstance(failure, DeviceError)), type(failures[0]))
        raise kind(f"{counted(len(failures), 'device')} of {len(devices)} failed:\n{listed}")


def _show(
    result: BenchResult | PacedResult, models: Sequence[Path], json_path: Path | None, tuned: Path | None
) -> None:
    from edgekd.artifact import write_json
    from edgekd.cli import bench_tables, ui
    from edgekd.doctor import saturation_note

    content = result.to_json()
    table = bench_tables.paced_table if "rate_per_s" in content else bench_tables.bench_result
    try:
        options.show_and_write(lambda: table(content), json_path, content)
    finally:
        if tuned is not None:
            write_json(tuned, _session_file(content), "--tuned")
    for model in models:
        options.tell(ui.progress(), saturation_note(model, content["device"]["target"]))


def _session_file(content: Mapping[str, Any]) -> dict[str, Any]:
    from edgekd.benchmarking.session_file import session_file

    model = content["models"][0]
    return session_file(
        content["tuning"]["session"], device=content["device"]["name"], model=model["path"], sha256=model["sha256"]
    )
