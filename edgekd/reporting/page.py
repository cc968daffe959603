"""The verb `report`: results as one page that needs no network, readable on a phone, in the dark, on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekd
from edgekd.artifact import write_bytes
from edgekd.errors import require_extra
from edgekd.reporting.charts import charts
from edgekd.reporting.findings import Findings, gather
from edgekd.text import (
    bytes_text,
    cost_text,
    energy_text,
    fact_text,
    help_sentences,
    milliseconds,
    ratio_text,
    search_sentences,
    share,
    transfer_sentences,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FOLDER = Path(__file__).parent
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def report(sources: Sequence[str | Path] | str | Path, output: str | Path) -> Path:
    """Write a page of results, and return where it is.

    Args:
        sources: Folders of runs, and files in the forms of `run`, `bench`, `evaluate`, `quantize` and of a search.
        output: The HTML file.

    Raises:
        DataError: a source is missing, damaged, or in another form.
        MissingExtraError: the extra `report` is not installed.
        OutputError: the page cannot be written; an earlier one stays.
    """
    for module in ("jinja2", "plotly"):
        require_extra("report", module)
    findings = gather([sources] if isinstance(sources, str | Path) else sources)
    path = Path(output)
    write_bytes(path, render(findings).encode())
    return path


def render(findings: Findings) -> str:
    """Return the page. Whatever comes from files (names, labels, settings) is shown letter by letter."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": bytes_text,
        "share": share,
        "ms": milliseconds,
        "ratio": ratio_text,
        "fact": fact_text,
        "energy": energy_text,
    }
    figures = charts(findings)
    return environment.get_template("page.html.j2").render(
        findings=findings,
        figures=figures,
        figures_json=_in_script(figures),
        sentences=sentences(findings),
        search_sentences=[] if findings.search is None else search_sentences(findings.search),
        settings=_settings(findings),
        plotly=get_plotlyjs(),
        version=edgekd.__version__,
    )


def sentences(findings: Findings) -> list[str]:
    """Return in words what a run cost and gained."""
    run = findings.run
    if run is None:
        return []
    models = {model["role"]: model for model in run["models"]}
    told = [f"{cost_text(models['teacher'], models['student-int8'])}."]
    if "control" in models:
        told += help_sentences(run)
        told.append(
            f"The control in the table agrees with the teacher on {share(models['control']['agreement_teacher'])} of "
            f"the samples, the distilled student on {share(models['student-fp32']['agreement_teacher'])}."
        )
    told += transfer_sentences(run)
    gate = run["gate"]
    if gate["met"] is not None:
        told.append(
            f"The gate ({share(gate['max_drop'])} at most) is {'met' if gate['met'] else 'NOT met'}: "
            f"INT8 lost {share(gate['drop'])}."
        )
    return told


def _settings(findings: Findings) -> dict[str, str]:
    """Return the recipe's settings, `section.key` each."""
    recipe: Mapping[str, Any] = (findings.run or {}).get("recipe", {})
    flat = {}
    for section, content in recipe.items():
        items = content.items() if isinstance(content, dict) else [("", content)]
        flat.update({f"{section}.{key}".rstrip("."): json.dumps(value) for key, value in items})
    return flat


def _in_script(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text
