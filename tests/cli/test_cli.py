"""The command line: exit codes, one message, nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekd.cli import VERBS, main
from edgekd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    Line = Callable[..., str]


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Run a command in this process; return what it printed on standard output, or the error message."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert end.value.code == code, printed.err
        if not code:
            return printed.out
        assert "Traceback" not in printed.err
        return printed.err

    return run


@pytest.fixture
def model(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto]) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(make_conv_net(), path)
    return path


@pytest.fixture
def data(tmp_path: Path, images: np.ndarray) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, input=images, labels=np.arange(64) % 4)
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_help_names_every_verb_and_the_exit_codes(line: Line) -> None:
    text = line("--help")
    for verb in VERBS:
        assert f"\n  {verb} " in text
    assert "4 a gate not met" in " ".join(text.split())


def test_the_version(line: Line) -> None:
    import edgekd

    assert edgekd.__version__ in line("--version")


def test_bench_at_a_pace(line: Line, model: Path, tmp_path: Path) -> None:
    table = line("bench", model, "--rate", "100/s", "--runs", "2", "--arena", "off", "--json", "p.json")
    assert "100 inputs a second" in table
    assert "of 2" in table
    assert "throttling" in table
    written = json.loads((tmp_path / "p.json").read_text())
    assert [row["session"] for row in written["models"]] == [
        {"arena": False, "spinning": spinning, "optimization": "all"} for spinning in (True, False)
    ]


def test_quantize_evaluate_and_bench_by_file(line: Line, model: Path, data: Path, tmp_path: Path) -> None:
    said = line("quantize", model, "--calibration", data, "--evaluation", data, "-o", "q.onnx", "--json", "q.json")
    assert "q.onnx" in said
    assert "SQNR" in said
    content = json.loads((tmp_path / "q.json").read_bytes())
    assert content["schema"] == "edgekd.quantization/1"
    assert content["gate"] == {"max_drop": None, "met": None}
    assert "top-1" in line("evaluate", "q.onnx", "--data", data, "--reference", model, "--json", "e.json")
    content = json.loads((tmp_path / "e.json").read_bytes())
    assert content["schema"] == "edgekd.evaluation/1"
    assert content["agreement"] > 0.9
    table = line("bench", model, "q.onnx", "--runs", "20", "--threads", "1", "--json", "b.json")
    assert "net.onnx" in table
    content = json.loads((tmp_path / "b.json").read_bytes())
    assert content["schema"] == "edgekd.bench/1"
    assert [entry["path"] for entry in content["models"]] == [str(model), "q.onnx"]
    assert content["models"][0]["latency_ms"]["samples"] == 20


def test_quantize_says_in_short_what_the_file_is(
    line: Line, tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], data: Path, images: np.ndarray
) -> None:
    """The first convolution sees a channel of outliers that it does not use: it alone has to stay in fp32."""
    net = make_conv_net()
    weight = next(tensor for tensor in net.graph.initializer if tensor.name == "w1")
    values = numpy_helper.to_array(weight).copy()
    values[:, 2] = 0
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))
    onnx.save(net, tmp_path / "net.onnx")
    images[:, 2] *= 3000
    np.savez(tmp_path / "wild.npz", input=images)
    asked = ("--ranges", "minmax", "--target", "x86-avx2", "--max-drop", "0.05", "-o", "q.onnx")
    said = line("quantize", "net.onnx", "--calibration", "wild.npz", "--evaluation", "wild.npz", *asked)
    first, *told = said.splitlines()
    assert first.startswith("q.onnx: ")
    assert first.endswith(" for x86-avx2")
    names, words = zip(*((entry[2:14].strip(), entry[15:]) for entry in told), strict=True)
    assert names == ("saturation", "in fp32", "at run time", "accuracy")
    assert words[0] == "none of 2 layers can saturate on x86-avx2"
    assert words[1].startswith("conv1: 1 of 3 layers stays in fp32 (")
    assert "with every layer in INT8 the drop was" in words[1]
    assert "integer operators, " in words[2]
    assert "Q/DQ conversion" in words[2]
    assert words[3].startswith("64 samples, agrees with the reference on ")


def test_the_method_of_quantization_is_what_was_asked_for(
    line: Line, model: Path, data: Path, tmp_path: Path
) -> None:
    asked = (
        "--ranges",
        "percentile",
        "--rounding",
        "nearest",
        "--no-bias-correction",
        "--cache",
        "kept",
        "--measure",
    )
    said = line(
        "quantize", model, "--calibration", data, "--samples", "12", *asked, "-o", "q.onnx", "--json", "q.json"
    )
    content = json.loads((tmp_path / "q.json").read_bytes())
    effective = {key: content["effective"][key] for key in ("ranges", "rounding", "bias_correction")}
    assert effective == {"ranges": "percentile", "rounding": "nearest", "bias_correction": False}
    assert content["calibration"] == {"samples": 12, "method": "percentile", "synthetic": False}
    assert content["audit"]["time_us"] > 0
    assert "of the time in fp32" in said
    verdict = {"slower": "SLOWER than", "faster": "faster than", "none": "no difference from"}
    assert f"  speed        {verdict[content['speed']['ratio']['verdict']]} fp32: " in said
    assert len(list((tmp_path / "kept").glob("*.ranges.json"))) == 1


def test_other_modes_need_no_calibration(line: Line, model: Path, data: Path, tmp_path: Path) -> None:
    said = line("quantize", model, "--mode", "dynamic", "--evaluation", data, "-o", "d.onnx", "--json", "d.json")
    assert "an answer depends on the samples beside it" in said
    assert "conv1, conv2: dynamic INT8 is for matrices of weights" in said
    assert json.loads((tmp_path / "d.json").read_bytes())["effective"]["mode"] == "dynamic"
    said = line("quantize", model, "--mode", "fp16", "-o", "h.onnx")
    assert "only the weights are stored in fp16" in said
    assert (tmp_path / "h.onnx").stat().st_size < model.stat().st_size
    for option in ("--ranges", "mse"), ("--no-bias-correction",), ("--samples", "3"), ("--calibration", data):
        message = line("quantize", model, "--mode", "dynamic", *option, "-o", "d.onnx", code=2)
        assert "belongs to static INT8" in message


def test_synthetic_calibration_is_labelled_everywhere(line: Line, model: Path, data: Path, tmp_path: Path) -> None:
    said = line(
        "quantize", model, "--calibration", "synthetic", "--evaluation", data, "-o", "q.onnx", "--json", "q.json"
    )
    assert "  calibration  SYNTHETIC: made-up samples, not data" in said
    content = json.loads((tmp_path / "q.json").read_bytes())
    assert content["calibration"] == {"samples": 128, "method": "mse", "synthetic": True}
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "q.onnx").metadata_props}
    assert metadata["edgekd.calibration"] == "synthetic"


def test_a_gate_that_is_not_met_exits_4_and_keeps_the_file(
    line: Line, model: Path, tmp_path: Path, images: np.ndarray
) -> None:
    np.savez(tmp_path / "narrow.npz", input=images * np.float32(0.001))
    np.savez(tmp_path / "wide.npz", input=images)
    arguments = ("quantize", model, "--calibration", "narrow.npz", "--evaluation", "wide.npz", "-o", "q.onnx")
    message = line(*arguments, "--max-drop", "0", "--json", "q.json", code=4)
    assert "gate not met: agreement" in message
    assert "(64 samples). No file met a drop of 0: in the best of " in message
    assert "may help. The best attempt is at q.onnx." in message
    assert (tmp_path / "q.onnx").exists()
    assert json.loads((tmp_path / "q.json").read_bytes())["gate"] == {"max_drop": 0.0, "met": False}
    message = line("evaluate", "q.onnx", "--data", "wide.npz", "--reference", model, "--max-drop", "0", code=4)
    assert "gate not met" in message


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["quantise"], 2, "No such command 'quantise'"),
        (["run", "absent.toml"], 2, "absent.toml: no such recipe"),
        (["run"], 2, "Missing argument"),
        (["evaluate", "absent.onnx", "--data", "data.npz"], 3, "absent.onnx: no such model file"),
        (["evaluate", "net.onnx", "--data", "absent.npz"], 3, "absent.npz"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--max-drop", "0.1"], 2, "--reference"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--device", "phone"], 2, "unknown device 'phone'"),
        (["evaluate", "text.onnx", "--data", "data.npz"], 3, "text.onnx: not an ONNX model"),
        (["evaluate", "net.onnx", "--data", "text.npz"], 3, "text.npz"),
        (
            ["evaluate", "net.onnx", "--data", "other.npz"],
            3,
            "no array for the model's input 'input' (perhaps you meant 'inptu'?)",
        ),
        (["evaluate", "net.onnx", "--data", "wide.npz"], 3, "takes 'input' of shape"),
        (["evaluate", "net.onnx", "--data", "nan.npz"], 3, "NaN"),
        (["evaluate", "net.onnx", "--data", "labels.npz"], 3, "out of range"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--contract", "text.npz"], 3, "text.npz: not JSON"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--json", "text.npz/e.json"], 2, "cannot write here"),
        (
            ["quantize", "net.onnx", "--calibration", "data.npz", "--target", "x87", "-o", "q.onnx"],
            2,
            "unknown target",
        ),
        (["quantize", "net.onnx", "--calibration", "data.npz", "-o", "text.npz/q.onnx"], 2, "cannot write here"),
        (["quantize", "text.onnx", "--calibration", "data.npz", "-o", "q.onnx"], 3, "not an ONNX model"),
        (
            ["quantize", "net.onnx", "--calibration", "data.npz", "--max-drop", "0.1", "-o", "q.onnx"],
            2,
            "--evaluation",
        ),
        (
            ["quantize", "net.onnx", "--calibration", "data.npz", "--max-drop", "nan", "-o", "q.onnx"],
            2,
            "not in the range",
        ),
        (["bench", "absent.onnx"], 3, "absent.onnx"),
        (["bench", "text.onnx"], 3, "text.onnx"),
        (["bench", "net.onnx", "--device", "phone"], 2, "unknown device 'phone'"),
        (["bench", "net.onnx", "--duration", "soon"], 2, "expected a duration such as 10s"),
        (["bench", "net.onnx", "--threads", "0"], 2, "expected numbers of threads"),
        (["bench", "net.onnx", "--dim", "batch=0"], 2, "expected an axis and its extent"),
        (["bench", "net.onnx", "--rate", "0/s"], 2, "expected a rate such as 10/s"),
        (["bench", "net.onnx", "--rate", "10"], 2, "expected a rate such as 10/s"),
        (["bench", "net.onnx", "--rate", "10/s", "--device", "qemu-cortex-a53"], 2, "is emulated"),
        (["bench", "net.onnx", "--arena", "maybe"], 2, "'maybe' is not one of"),
        (["bench", "net.onnx", "--runs", "5", "--duration", "1s"], 2, "either --duration or --runs"),
        (["bench", "net.onnx", "--tune", "--runs", "5"], 2, "either --tune or --runs"),
        (["bench", "net.onnx", "--rate", "1/s", "--profile"], 2, "either --rate or --profile"),
        (["bench", "net.onnx", "--session", "text.npz", "--threads", "2"], 2, "either --session or --threads"),
        (["bench", "net.onnx", "--session", "text.npz"], 3, "text.npz: not a JSON file"),
        (["bench", "net.onnx", "net.onnx", "--tune"], 2, "--tune takes one model, got 2"),
        (["bench", "net.onnx", "--tuned", "s.json"], 2, "--tuned is written by --tune"),
        (["bench", "net.onnx", "--tune", "--tuned", "net.onnx"], 2, "the command reads it"),
        (["export", "absent.safetensors", "--model", "resnet8", "-o", "m.onnx"], 3, "absent.safetensors"),
        (["devices", "show", "phone"], 2, "unknown device 'phone'"),
        (["recipe", "init", "digit"], 2, "perhaps you meant 'digits'"),
        (["recipe", "check", "text.npz"], 2, "not a TOML file"),
        (["recipe", "check", "good.toml", "--set", "bench.device=phone"], 2, "bench.device: unknown device 'phone'"),
        (["recipe", "check", "good.toml", "--set", "quantize.target=x87"], 2, "quantize.target: unknown target"),
        (["recipe", "check", "good.toml", "--set", "student.model=resnt8"], 2, "student.model: no model is named"),
        (["export", "text.npz", "-o", "m.onnx"], 2, "no card that names its model; give one with --model"),
        (["export", "text.npz", "--model", "m:f", "--argument", "x", "-o", "m.onnx"], 2, "expected key=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_message_and_its_exit_code(
    line: Line,
    model: Path,
    data: Path,
    tmp_path: Path,
    images: np.ndarray,
    arguments: list[str],
    code: int,
    expected: str,
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "good.toml").write_text(
        'name = "d"\ndata.source = "digits"\nteacher.model = "mlp-8"\nstudent.model = "mlp-4"\n'
    )
    np.savez(tmp_path / "other.npz", inptu=images)
    np.savez(tmp_path / "wide.npz", input=images[:, :, :4])
    np.savez(tmp_path / "nan.npz", input=np.where(np.arange(8) == 3, np.nan, images).astype(np.float32))
    np.savez(tmp_path / "labels.npz", input=images, labels=np.full(64, 7))
    before = files(tmp_path)
    message = line(*arguments, code=code)
    assert expected in message
    assert message.count("edgekd: ") + message.count("Error: ") == 1
    assert files(tmp_path) == before


def test_a_truncated_model_and_a_truncated_archive(line: Line, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-100])
    (tmp_path / "cut.npz").write_bytes(data.read_bytes()[:-100])
    assert "cut.onnx: not an ONNX model" in line("evaluate", "cut.onnx", "--data", data, code=3)
    assert "cut.npz" in line("evaluate", model, "--data", "cut.npz", code=3)


def test_a_fault_of_edgekd_is_called_one(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("edgekd.devices.list_profiles", broken)
    message = line("devices", "list", code=1)
    assert "a fault of edgekd itself: ZeroDivisionError: by zero" in message
    with pytest.raises(ZeroDivisionError):
        main(["devices", "list", "--debug"])


def test_debug_shows_where(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "absent.onnx", "--data", "x.npz", "--debug"])
    assert end.value.code == 3
    assert "Traceback" in capsys.readouterr().err


def test_recipes_are_made_and_checked(line: Line, tmp_path: Path) -> None:
    line("recipe", "init", "digits", "-o", "mine.toml")
    assert "good" in line("recipe", "check", "mine.toml")
    assert "exists already" in line("recipe", "init", "digits", "-o", "mine.toml", code=2)
    assert json.loads(line("recipe", "schema"))["title"] == "Recipe"
    message = line("recipe", "check", "mine.toml", "--set", "distill.alhpa=0.5", code=2)
    assert "unknown key 'distill.alhpa' (perhaps you meant 'alpha'?)" in message


def test_devices_are_listed_and_shown(line: Line) -> None:
    assert "local" in line("devices", "list")
    assert "driver" in line("devices", "show", "local")
    assert "hardware.cores      4x Cortex-A76 2.4 GHz, 4x Cortex-A55 1.8 GHz" in line("devices", "show", "rock-5b")
    probed = line("devices", "probe", "local")
    assert "cpu_model" in probed
    assert "None" not in probed
    assert "nothing to prepare" in line("devices", "prepare", "local")


BLOCKED = ("torch", "onnxscript", "safetensors", "sklearn", "accelerate", "optuna")


def without_extras(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing of the extras can be imported."""
    script = f"import sys\nsys.modules.update(dict.fromkeys({BLOCKED!r}))\nfrom edgekd.cli import main\nmain()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_board_needs_no_torch(model: Path, data: Path, tmp_path: Path) -> None:
    for arguments in (
        ("quantize", model, "--calibration", data, "-o", "q.onnx"),
        ("evaluate", "q.onnx", "--data", data, "--reference", model),
        ("bench", model, "q.onnx", "--runs", "8"),
        ("devices", "list"),
        ("recipe", "init", "digits"),
        ("recipe", "check", "digits.toml"),
    ):
        ran = without_extras(tmp_path, *arguments)
        assert ran.returncode == 0, ran.stderr


def test_a_verb_that_needs_an_extra_says_which(tmp_path: Path) -> None:
    without_extras(tmp_path, "recipe", "init", "digits")
    (tmp_path / "c.json").write_text("{}")
    for arguments in (
        ("run", "digits.toml"),
        ("distill", "digits.toml"),
        ("export", "w.safetensors", "--model", "resnet8", "-o", "m.onnx"),
    ):
        ran = without_extras(tmp_path, *arguments)
        assert ran.returncode == 6, ran.stderr
        assert "pip install 'edgekd[train]'" in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_nothing_half_written(model: Path, data: Path, tmp_path: Path) -> None:
    import resource

    (tmp_path / "q.onnx").write_bytes(b"earlier")
    before = files(tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [sys.executable, "-m", "edgekd", "quantize", model, "--calibration", data, "-o", "q.onnx"]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limit,
        env={**os.environ, "TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else None,
    )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert "cannot write temporary files here" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "q.onnx").read_bytes() == b"earlier"
    assert files(tmp_path) == before


def test_a_reader_that_goes_away_is_no_error() -> None:
    """It has got a line, and all has been written: the pipe is wide enough to hold it, whoever is quicker."""
    taken, given = os.pipe()
    fcntl.fcntl(given, fcntl.F_SETPIPE_SZ, 1 << 20)
    command = [sys.executable, "-m", "edgekd", "recipe", "schema"]
    with subprocess.Popen(command, stdout=given, stderr=subprocess.PIPE, text=True) as ran:
        os.close(given)
        read = subprocess.run(["head", "-n", "1"], stdin=taken, capture_output=True, text=True, check=False)
        os.close(taken)
        _, said = ran.communicate()
    assert (ran.returncode, said + read.stderr) == (0, "")
    assert read.stdout == "{\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    environment = {**os.environ, "_EDGEKD_COMPLETE": f"{shell}_source"}
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("edgekd"))], capture_output=True, text=True, check=False, env=environment
    )
    assert "_EDGEKD_COMPLETE" in ran.stdout


def test_several_targets_give_a_folder_of_files_and_a_manifest(
    line: Line, model: Path, data: Path, tmp_path: Path
) -> None:
    targets = ("--target", "x86-avx2", "--target", "arm64-dotprod")
    said = line("quantize", model, "--calibration", data, *targets, "-o", "out", "--json", "q.json")
    assert said.count("none of 3 layers can saturate") == 2
    assert files(tmp_path / "out") == {"net.x86-avx2.onnx", "net.arm64-dotprod.onnx", "manifest.json"}
    found = json.loads((tmp_path / "q.json").read_bytes())["files"]
    assert [file["target"] for file in found] == ["x86-avx2", "arm64-dotprod"]
    assert all(file["schema"] == "edgekd.quantization/1" for file in found)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["quantize", "net.onnx", "--calibration", "data.npz", "-o", "q", "--json", "./q"], "-o is written there"),
        (["quantize", "net.onnx", "--calibration", "data.npz", "-o", "./data.npz"], "the command reads it"),
        (["quantize", "net.onnx", "--calibration", "data.npz", "-o", "link"], "the command reads it"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--json", "net.onnx"], "the command reads it"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--json", "hard"], "the command reads it"),
        (["bench", "net.onnx", "--json", "net.onnx"], "the command reads it"),
        (["export", "net.onnx", "--model", "resnet8", "-o", "net.onnx"], "the command reads it"),
        (
            ["evaluate", "net.onnx", "--data", "data.npz", "--json", "x" * 300],
            "too long; choose another place with --json",
        ),
        (["evaluate", "net.onnx", "--data", "data.npz", "--json", "."], "this is a folder"),
        (["evaluate", "net.onnx", "--data", "data.npz", "--json", ""], "--json': this name is empty"),
        (["evaluate", "net.onnx", "--data", ""], "--data': this name is empty"),
        (["evaluate", "", "--data", "data.npz"], "MODEL': this name is empty"),
        (["quantize", "net.onnx", "--calibration", "", "-o", "q"], "--calibration': this name is empty"),
        (["quantize", "net.onnx", "--calibration", "data.npz", "-o", ""], "-o': this name is empty"),
        (["run", "recipe.toml", "-o", ""], "-o': this name is empty"),
        (["recipe", "init", "digits", "-o", ""], "-o': this name is empty"),
        (["recipe", "check", "recipe.toml", "--set", "teacher.checkpoint=~nobody-at-all/t"], "home directory"),
        (["recipe", "check", "recipe.toml", "--set", f"teacher.checkpoint={'x' * 300}"], "no such file"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_places_are_checked_before_any_work(
    line: Line, model: Path, data: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    line("recipe", "init", "digits", "-o", "recipe.toml")
    (tmp_path / "link").symlink_to("net.onnx")
    (tmp_path / "hard").hardlink_to(tmp_path / "net.onnx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = line(*arguments, code=2)
    assert expected in message
    assert " ...\n" not in message  # no step was begun
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_result_is_shown_though_it_cannot_be_written(
    line: Line, model: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekd.cli.options.claim", lambda places, read: None)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(model), "--data", str(data), "--json", f"{data}/e.json"])
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert printed.out == "64 samples, top-1 25.00 %\n"
    assert "choose another place with --json" in printed.err


def test_one_of_a_kind_is_counted_as_one(line: Line, model: Path, images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", input=images[:1])
    assert line("evaluate", model, "--data", "one.npz") == "1 sample\n"


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 5), (PermissionError(13, "Permission denied", "x"), 2)])
def test_what_the_machine_refuses_is_no_fault_of_edgekd(
    line: Line, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr("edgekd.devices.list_profiles", broken)
    message = line("devices", "list", code=code)
    assert message.count("\n") == 1
    assert "fault" not in message


def test_an_interrupted_import_is_an_interrupt(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("edgekd.devices.list_profiles", broken)
    assert line("devices", "list", code=130).startswith("edgekd: interrupted; ")


@pytest.mark.parametrize(
    ("said", "width"),
    [
        ((), 5),
        (("--argument", "width=6"), 6),
        (("--model", "nets_of_cli:net"), 5),
        (("--model", "nets_of_cli:other", "--argument", "size=7"), 7),
    ],
)
def test_export_takes_model_and_arguments_from_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...], width: int
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: dict[str, object] = {}

    def fake_export(*_: object, **values: object) -> None:
        asked.update(values)
        raise UsageError("far enough")

    monkeypatch.setattr("edgekd.onnx_export.export_checkpoint", fake_export)
    card = {
        "settings": {"model": "nets_of_cli:net", "arguments": {"width": 5}},
        "extra": {"contract": {"layout": "as-is", "shape": [4], "labels": ["a", "b"]}},
    }
    (tmp_path / "w.safetensors.card.json").write_text(json.dumps(card))
    with pytest.raises(SystemExit):
        main(["export", "w.safetensors", *said, "-o", "m.onnx"])
    assert str(asked["model"]).startswith("nets_of_cli:")
    assert list(asked["arguments"].values()) == [width]  # type: ignore[attr-defined]


def test_distill_lists_every_kind_of_term_with_settings_and_paper(line: Line) -> None:
    from edgekd.terms import KINDS

    printed = line("distill", "--list")
    for kind in KINDS:
        assert re.search(rf"\b{kind}\b", printed), kind
    assert "temperature = 4.0" in printed
    for word in ("2203.08679", "1412.6550", "1904.05068"):
        assert word in printed


def test_an_unknown_kind_of_term_is_a_usage_error_that_names_the_nearest(line: Line, tmp_path: Path) -> None:
    recipe = 'name = "d"\ndata.source = "digits"\nteacher.model = "mlp-8"\nstudent.model = "mlp-4"\n'
    (tmp_path / "r.toml").write_text(recipe + '[[distill.terms]]\nkind = "dkdd"\n')
    assert "perhaps you meant 'dkd'?" in line("distill", "r.toml", code=2)
