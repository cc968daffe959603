"""The charts of a page, as plotly figures. Colours that depend on light or dark are the page's."""

from __future__ import annotations

import html
import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from edgekd.text import bytes_text, draw_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgekd.reporting.findings import Findings, Model

    Figure = dict[str, Any]
    Trace = dict[str, Any]

# Told apart also by colour-blind eyes: M. Okabe and K. Ito, Color Universal Design (2008).
PALETTE: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999933")
PHASES: Final = ("interpreter", "import", "session_peak", "session", "first_run", "steady", "peak")
_MOST_OPERATORS: Final = 12
_PERCENTILES: Final = ("p50", "p90", "p95", "p99")
_LARGEST_MARKER: Final = 46.0  # pixels


def charts(findings: Findings) -> dict[str, Figure]:
    """Return the figures that the findings have data for, by name, each as `{"data": [...], "layout": {...}}`."""
    made = {
        "pareto": pareto(findings.models),
        "latency": latency(findings.models),
        "distribution": distribution(findings.models),
        "memory": memory(findings.models),
        "operators": operators(findings.models),
        "training": training(findings.curves),
        "search": search(findings.search),
        "layers": layers(findings.quantization),
    }
    return {name: figure for name, figure in made.items() if figure is not None}


def pareto(models: Sequence[Model]) -> Figure | None:
    """Accuracy (or agreement) against latency; the area of a mark is the file's size, a line joins the front."""
    shown = [(model, _quality(model), _percentile(model, "p50")) for model in models]
    points = [(model, y, x) for model, y, x in shown if x is not None and y is not None]
    if not points:
        return None
    largest = max((model.file_bytes or 0 for model, _, _ in points), default=0)
    data: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": _plain(model.name),
            "x": [x],
            "y": [100 * y],
            "marker": {"size": [_marker(model.file_bytes, largest)], "color": colour, "opacity": 0.85},
            "customdata": [bytes_text(model.file_bytes)],
            "hovertemplate": "%{x:.3g} ms, %{y:.2f} %, %{customdata}<extra>%{fullData.name}</extra>",
        }
        for (model, y, x), colour in zip(points, _colours(points), strict=True)
    ]
    front = _front([(x, 100 * y) for _, y, x in points])
    data.insert(
        0,
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [x for x, _ in front],
            "y": [y for _, y in front],
            "line": {"dash": "dot", "width": 1.5, "color": "#888888"},
            "hoverinfo": "skip",
            "showlegend": False,
        },
    )
    figure = _figure(data, x="median latency, ms", y="accuracy or agreement, %")
    return _logarithmic(figure, "xaxis", [x for _, _, x in points])


def latency(models: Sequence[Model]) -> Figure | None:
    """Percentiles with their upper bounds."""
    data = []
    measured = [model for model in models if model.latency_ms is not None]
    for model, colour in zip(measured, _colours(measured), strict=True):
        found = {name: _percentile(model, name) for name in _PERCENTILES}
        known = {name: value for name, value in found.items() if value is not None}
        uppers = [_percentile(model, f"{name}_upper") for name in known]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _plain(model.name),
                "x": list(known),
                "y": list(known.values()),
                "marker": {"size": 9, "color": colour},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [
                        0 if upper is None else max(0.0, upper - value)
                        for upper, value in zip(uppers, known.values(), strict=True)
                    ],
                    "arrayminus": [0] * len(known),
                    "color": colour,
                },
                "hovertemplate": "%{x}: %{y:.4g} ms<extra>%{fullData.name}</extra>",
            }
        )
    if not data:
        return None
    figure = _figure(data, x="percentile, with its 99 % upper bound", y="latency, ms")
    figure["layout"]["xaxis"] |= {"categoryorder": "array", "categoryarray": list(_PERCENTILES)}
    keys = (*_PERCENTILES, *(f"{name}_upper" for name in _PERCENTILES))
    shown = [_percentile(model, key) for model in measured for key in keys]
    return _logarithmic(figure, "yaxis", [value for value in shown if value is not None])


def distribution(models: Sequence[Model]) -> Figure | None:
    """The share of runs that took at most so long; the slowest 2 % may lie outside."""
    data = []
    measured = [model for model in models if (model.latency_ms or {}).get("distribution_ms")]
    for model, colour in zip(measured, _colours(measured), strict=True):
        quantiles = (model.latency_ms or {})["distribution_ms"]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": _plain(model.name),
                "x": list(quantiles),
                "y": [100 * index / (len(quantiles) - 1) for index in range(len(quantiles))],
                "line": {"color": colour, "width": 2},
                "hovertemplate": "%{y:.0f} % within %{x:.4g} ms<extra>%{fullData.name}</extra>",
            }
        )
    if not data:
        return None
    figure = _figure(data, x="latency, ms", y="share of the runs, %")
    shown = [value for model in measured for value in (model.latency_ms or {})["distribution_ms"][:-1]]
    return _logarithmic(figure, "xaxis", shown)


def memory(models: Sequence[Model]) -> Figure | None:
    """Resident memory by phase."""
    measured = [model for model in models if model.memory_bytes is not None]
    data = []
    for model, colour in zip(measured, _colours(measured), strict=True):
        known = {phase: (model.memory_bytes or {}).get(phase) for phase in PHASES}
        data.append(
            {
                "type": "bar",
                "name": _plain(model.name),
                "x": [phase.replace("_", " ") for phase in known],
                "y": [None if value is None else value / 1e6 for value in known.values()],
                "marker": {"color": colour},
                "hovertemplate": "%{x}: %{y:.1f} MB<extra>%{fullData.name}</extra>",
            }
        )
    return _figure(data, x="", y="resident memory, MB") if data else None


def operators(models: Sequence[Model]) -> Figure | None:
    """Time of one inference by operator, under onnxruntime's profiler; those that take most."""
    profiled = [model for model in models if model.profile is not None]
    times: list[Counter[str]] = []
    total: Counter[str] = Counter()
    for model in profiled:
        own: Counter[str] = Counter()
        for row in (model.profile or {})["operators"]:
            own[row["operator"]] += row["time_us"]
        times.append(own)
        total.update(own)
    shown = [name for name, _ in total.most_common(_MOST_OPERATORS)]
    data = [
        {
            "type": "bar",
            "name": _plain(model.name),
            "x": [_plain(name) for name in shown],
            "y": [own[name] for name in shown],
            "marker": {"color": colour},
            "hovertemplate": "%{x}: %{y:.4g} us<extra>%{fullData.name}</extra>",
        }
        for model, own, colour in zip(profiled, times, _colours(profiled), strict=True)
    ]
    return _figure(data, x="", y="time of an inference, us") if data else None


def training(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure | None:
    """Validation accuracy by epoch: teacher, control, student."""
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": _plain(role),
            "x": list(range(1, len(history) + 1)),
            "y": [100 * epoch["validation_top1"] for epoch in history],
            "line": {"color": colour, "width": 2},
            "hovertemplate": "epoch %{x}: %{y:.2f} %<extra>%{fullData.name}</extra>",
        }
        for (role, history), colour in zip(curves.items(), _colours(curves), strict=True)
    ]
    return _figure(data, x="epoch", y="validation accuracy, %") if data else None


def search(content: Mapping[str, Any] | None) -> Figure | None:
    """Validation accuracy of each trial, a colour a method; a line joins the best so far."""
    shown = [] if content is None else [t for t in content["trials"] if t["validation_top1"] is not None]
    if not shown:
        return None
    best = list(itertools.accumulate((100 * t["validation_top1"] for t in shown), max))
    data: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": [trial["trial"] for trial in shown],
            "y": best,
            "line": {"dash": "dot", "width": 1.5, "color": "#888888", "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    methods = list(dict.fromkeys(trial["method"] for trial in shown))
    for method, colour in zip(methods, _colours(methods), strict=True):
        own = [trial for trial in shown if trial["method"] == method]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _plain(method),
                "x": [trial["trial"] for trial in own],
                "y": [100 * trial["validation_top1"] for trial in own],
                "customdata": [_plain(f"{draw_text(trial)}, {trial['state']}") for trial in own],
                "marker": {
                    "size": 10,
                    "color": colour,
                    "symbol": ["circle" if trial["state"] == "complete" else "circle-open" for trial in own],
                },
                "hovertemplate": "trial %{x}: %{y:.2f} %, %{customdata}<extra></extra>",
            }
        )
    return _figure(data, x="trial", y="validation accuracy, %")


def layers(quantization: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Error that rounding the weights leaves in each layer's output, in the order of the graph."""
    data = []
    shown = {path: content["layers"] for path, content in quantization.items() if content.get("layers")}
    for (path, rows), colour in zip(shown.items(), _colours(shown), strict=True):
        data.append(
            {
                "type": "bar",
                "name": _plain(path),
                "x": list(range(1, len(rows) + 1)),
                "customdata": [_plain(row["layer"]) for row in rows],
                "y": [row["sqnr_db"] for row in rows],
                "marker": {"color": colour},
                "hovertemplate": "%{customdata}: %{y:.1f} dB<extra>%{fullData.name}</extra>",
            }
        )
    return _figure(data, x="layer, in the order of the graph", y="SQNR, dB (higher is better)") if data else None


def _figure(data: Sequence[Mapping[str, Any]], *, x: str, y: str) -> Figure:
    layout = {
        "margin": {"l": 60, "r": 20, "t": 20, "b": 60},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "showlegend": len(data) > 1,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
        "barmode": "group",
        "hovermode": "closest",
    }
    return {"data": list(data), "layout": layout}


def _logarithmic(figure: Figure, axis: str, values: Sequence[float]) -> Figure:
    """Make an axis logarithmic, with ticks at 1, 2 and 5, written out, and room around the values (above 0)."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = 0.08 * (high - low) + 0.08
    decades = range(math.floor(low - room), math.ceil(high + room) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    figure["layout"][axis] |= {
        "type": "log",
        "range": [low - room, high + room],
        "tickvals": ticks,
        "ticktext": [f"{tick:.6g}" for tick in ticks],
        "tickangle": 0,
    }
    return figure


def _quality(model: Model) -> float | None:
    return model.top1 if model.top1 is not None else model.agreement


def _percentile(model: Model, name: str) -> float | None:
    value: float | None = (model.latency_ms or {}).get(name)
    return value


def _marker(size: int | None, largest: int) -> float:
    """Return a diameter in pixels whose square goes with the file's size."""
    return 14.0 if not size else max(10.0, _LARGEST_MARKER * float(size / largest) ** 0.5)


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both, fastest first."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def _colours(items: Iterable[object]) -> list[str]:
    return [PALETTE[index % len(PALETTE)] for index, _ in enumerate(items)]


def _plain(text: str) -> str:
    """Return a text as plotly shows it letter by letter: it reads some tags in text."""
    return html.escape(text, quote=False)
