"""The page: what it tells, that hostile names stay text, and that a browser draws every chart."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from edgekd.errors import DataError, OutputError, UsageError
from edgekd.reporting.charts import charts
from edgekd.reporting.findings import gather
from edgekd.reporting.page import report

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '<img src=x onerror="document.title=1">&lt;b&gt;</script><script>document.title=2</script>'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def latency(p50: float) -> dict[str, Any]:
    return {
        "p50": p50,
        "p90": 1.1 * p50,
        "p95": 1.2 * p50,
        "p99": None,
        "p50_upper": 1.05 * p50,
        "p90_upper": 1.15 * p50,
        "p95_upper": 1.3 * p50,
        "p99_upper": None,
        "distribution_ms": [p50 * (0.9 + 0.01 * step) for step in range(51)],
    }


MEMORY = {"interpreter": 10**7, "import": 2 * 10**7, "session_peak": None, "session": 3 * 10**7, "peak": 5 * 10**7}
CONDITIONS = {"verdict": "tainted: other work", "cpu_model": HOSTILE, "governor": "unavailable", "retaken": None}
DEVICE = {"name": "local", "target": "x86-avx2"}
RATIO = {"median": 0.5, "lower": 0.4, "upper": 0.6, "verdict": "faster"}


def model(role: str, size: int, top1: float, p50: float) -> dict[str, Any]:
    return {
        "role": role,
        "path": f"{role}.onnx",
        "parameters": size // 4,
        "file_bytes": size,
        "top1": top1,
        "agreement_teacher": top1,
        "latency_ms": latency(p50),
        "memory_bytes": MEMORY,
    }


def run_report(**changes: Any) -> dict[str, Any]:
    return {
        "schema": "edgekd.run/1",
        "name": HOSTILE,
        "models": [
            model("teacher", 4_000_000, 0.99, 2.0),
            model("control", 400_000, 0.95, 0.5),
            model("student-fp32", 400_000, 0.97, 0.5),
            model("student-int8", 100_000, 0.96, 0.25),
        ],
        "samples": 400,
        "int8": {"agreement_fp32": 0.98, "sqnr_db": 25.0, "latency_ratio_fp32": RATIO},
        "gate": {"max_drop": 0.02, "drop": 0.01, "met": True},
        "device": DEVICE,
        "conditions": CONDITIONS,
        "recipe": {"name": "digits", "data": {"labels": HOSTILE}},
        **changes,
    }


def quantization() -> dict[str, Any]:
    return {
        "schema": "edgekd.quantization/1",
        "target": "x86-avx2",
        "fp32_layers": [HOSTILE],
        "fp32_reason": "because",
        "saturation": {"layers": 3, "can_saturate": 1},
        "audit": {"quantized": {"QLinearConv": 2}, "surviving_qdq": 2},
        "calibration": {"samples": 10, "method": "mse"},
        "layers": [{"layer": HOSTILE, "sqnr_db": 31.0}, {"layer": "conv2", "sqnr_db": 28.0}],
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(run_report()))
    history = [{"loss": 1.0, "validation_loss": 1.0, "validation_top1": 0.5 + 0.1 * epoch} for epoch in range(4)]
    for role in ("teacher", "control", "student"):
        card = {"metrics": {"history": history}, "versions": {"torch": "2.13.0"}}
        (folder / f"{role}.safetensors.card.json").write_text(json.dumps(card))
    trial = {
        "trial": 1,
        "state": "complete",
        "method": HOSTILE,
        "temperature": 4.0,
        "alpha": 0.8,
        "learning_rate": 0.1,
    }
    trial |= {"validation_top1": 0.5, "validation_loss": 1.0, "epochs": 2}
    found = {"validation_samples": 50, "trials": [trial], "best": {"trial": 1}}
    (folder / "search").mkdir()
    (folder / "search" / "search.json").write_text(json.dumps(found))
    card = {"metrics": quantization(), "versions": {"onnxruntime": "1.32.0"}}
    (folder / "student.int8.onnx.card.json").write_text(json.dumps(card))
    return folder


def text_of(page: Path) -> str:
    """What a reader sees, without scripts and charts."""
    visible = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", visible)).split())


def test_a_run(tmp_path: Path, run_folder: Path) -> None:
    page = report(run_folder, tmp_path / "page.html")
    text = text_of(page)
    for told in (
        "40.0x smaller than the teacher's and 3.00 points less accurate",
        "(the control) is 2.00 points less accurate than the distilled one; one such figure has a standard error of 1.09",
        "The control in the table agrees with the teacher on 95.00 % of the samples, the distilled student on 97.00 %",
        "The gate (2.00 % at most) is met: INT8 lost 1.00 %",
        "Latencies on local were measured under bad conditions: tainted: other work",
        "student int8 25,000 100.0 kB 96.00 % 96.00 % 98.00 % 25.0 dB 0.25 ms 0.275 ms 50.0 MB 0.500 [0.400, 0.600] faster",
        "1 of 3 layers can saturate on x86-avx2",
        "2 QLinearConv; 2 nodes quantize or dequantize",
        "retaken unavailable",
        "onnxruntime version 1.32.0",
    ):
        assert told in text
    assert "did not help" not in text


def test_conditions_and_energy_of_a_benchmark(tmp_path: Path) -> None:
    conditions = {
        "verdict": "valid",
        "frequencies_mhz_before": {"cpu0": 1500.0, "cpu1": 1400.0},
        "flags": ["asimd", "asimddp"],
        "busy_processes": {},
        "power_sensor": "hwmon ina3221 VDD_IN",
    }
    measured = {"path": "a.onnx", "threads": 1, "latency_ms": latency(1.0), "memory_bytes": MEMORY}
    measured |= {"ratio_to_first": None, "energy": {"per_inference_mj": 12.345}}
    content = {"schema": "edgekd.bench/1", "device": DEVICE, "conditions": conditions, "models": [measured]}
    (tmp_path / "bench.json").write_text(json.dumps(content))
    text = text_of(report(tmp_path / "bench.json", tmp_path / "page.html"))
    for told in (
        "frequencies mhz before cpu0 1500.00, cpu1 1400.00",
        "flags asimd, asimddp",
        "busy processes none",
        "power sensor hwmon ina3221 VDD_IN",
        "latency ratio energy",
        "12.3 mJ",
    ):
        assert told in text


def test_it_says_when_distillation_did_not_help(tmp_path: Path) -> None:
    content = run_report()
    content["models"][1]["top1"] = 0.97
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert "So distillation did not help here." in text_of(report(tmp_path, tmp_path / "page.html"))


def test_no_text_of_a_file_becomes_markup_and_nothing_is_fetched(tmp_path: Path, run_folder: Path) -> None:
    page = report(run_folder, tmp_path / "page.html").read_text()
    before, _, after = page.partition('id="figures">')
    figures, _, rest = after.partition("</script>")
    assert "<" not in figures
    assert json.loads(figures)["layers"]["data"][0]["customdata"][0] == html.escape(HOSTILE, quote=False)
    own = before + rest[rest.rindex("</script>") :]
    assert "<img" not in own
    assert HOSTILE not in own
    assert html.escape(HOSTILE, quote=False).partition("onerror")[0] in own.replace("&#34;", '"')
    assert "default-src 'none'" in before
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", own)


def test_results_of_several_devices_beside_each_other(tmp_path: Path) -> None:
    bench = {
        "schema": "edgekd.bench/1",
        "device": DEVICE,
        "conditions": {**CONDITIONS, "verdict": "valid"},
        "models": [
            {
                "path": "a.onnx",
                "threads": 1,
                "latency_ms": latency(1.0),
                "memory_bytes": MEMORY,
                "ratio_to_first": None,
            }
        ],
    }
    emulated = {
        **bench,
        "device": {"name": "board", "target": "arm64"},
        "models": [{**bench["models"][0], "latency_ms": None, "memory_bytes": None}],
    }
    scored = {"schema": "edgekd.evaluation/1", "model": {"path": "a.onnx"}, "device": "board"}
    scored |= {"samples": 10, "top1": 0.9, "agreement": None, "sqnr_db": None}
    for name, content in (("a", bench), ("b", emulated), ("c", scored), ("d", quantization())):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    findings = gather([tmp_path / f"{name}.json" for name in "abcd"])
    assert findings.title == "a, b, c, d"
    assert [found.name for found in findings.models] == ["a.onnx", "a.onnx on board"]
    assert findings.models[0].top1 == 0.9
    assert set(charts(findings)) == {"pareto", "latency", "distribution", "memory", "layers"}
    assert "unavailable" in text_of(report([tmp_path / "b.json"], tmp_path / "page.html"))


def test_percentiles_stand_in_order_and_their_bounds_are_on_the_chart(tmp_path: Path) -> None:
    """The first model lacks p95, and the bound of its p99 is far above everything else."""
    content = run_report()
    content["models"][0]["latency_ms"] |= {"p95": None, "p95_upper": None, "p99": 3.0, "p99_upper": 300.0}
    (tmp_path / "report.json").write_text(json.dumps(content))
    layout = charts(gather([tmp_path]))["latency"]["layout"]
    assert layout["xaxis"]["categoryarray"] == ["p50", "p90", "p95", "p99"]
    assert layout["yaxis"]["range"][1] > math.log10(300)


def test_bad_sources(tmp_path: Path, run_folder: Path) -> None:
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "other.json").write_text('{"schema": "edgekd.bench/2"}')
    (tmp_path / "damaged.json").write_text('{"schema": "edgekd.bench/1", "models": [{}]}')
    for name, message in (
        ("absent.json", "no such result file"),
        ("text.json", "not a JSON file"),
        ("list.json", "expected a JSON object"),
        ("other.json", "found schema 'edgekd.bench/2' .perhaps you meant 'edgekd.bench/1'"),
        ("damaged.json", "or a damaged one"),
        ("", "no report.json in this folder"),
    ):
        with pytest.raises(DataError, match=message):
            report(tmp_path / name, tmp_path / "page.html")
    with pytest.raises(UsageError, match="nothing to report"):
        report([], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(OutputError):
        report(run_folder, tmp_path / "text.json" / "page.html")


def test_a_browser_draws_every_chart_and_complains_of_nothing(tmp_path: Path, run_folder: Path) -> None:
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        required = "chromium" in os.environ.get("EDGEKD_REQUIRE", "").split(",")
        pytest.fail("chromium is required and not here") if required else pytest.skip("needs chromium")
    page = report(run_folder, tmp_path / "page.html")
    ran = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert re.findall(r"CONSOLE.*", ran.stderr) == []
    drawn = {
        name
        for name in charts(gather([run_folder]))
        if re.search(rf'data-chart="{name}"[^>]*data-drawn="yes"', ran.stdout)
    }
    assert drawn == {"pareto", "latency", "distribution", "memory", "training", "search", "layers"}
    assert ran.stdout.count('class="main-svg"') >= len(drawn)
    assert re.search(r"<title>([^<]*)</title>", ran.stdout)[1] == html.escape(
        HOSTILE, quote=False
    )  # no script of it ran


def test_where_the_time_goes_is_drawn_side_by_side(tmp_path: Path) -> None:
    def profiled(path: str, **times_us: float) -> dict[str, Any]:
        rows = [{"operator": name, "kind": "float", "time_us": time_us} for name, time_us in times_us.items()]
        measured = {"latency_ms": latency(1.0), "memory_bytes": MEMORY, "ratio_to_first": None}
        return {"path": path, "threads": 1, "profile": {"operators": rows}, **measured}

    many = {f"Op{number}": 0.5 for number in range(20)}
    models = [profiled("fp32.onnx", Conv=80.0, Gemm=4.0, **many), profiled("int8.onnx", QLinearConv=20.0, Gemm=3.0)]
    content = {"schema": "edgekd.bench/1", "device": DEVICE, "conditions": CONDITIONS, "models": models}
    (tmp_path / "bench.json").write_text(json.dumps(content))
    figure = charts(gather([tmp_path / "bench.json"]))["operators"]
    assert [(trace["name"], trace["x"][:3], trace["y"][:3]) for trace in figure["data"]] == [
        ("fp32.onnx", ["Conv", "QLinearConv", "Gemm"], [80.0, 0.0, 4.0]),
        ("int8.onnx", ["Conv", "QLinearConv", "Gemm"], [0.0, 20.0, 3.0]),
    ]
    assert len(figure["data"][0]["x"]) == 12
    assert "Where the time goes" in text_of(report(tmp_path / "bench.json", tmp_path / "page.html"))
