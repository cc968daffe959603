"""The command line among other processes: closed and full streams, signals, the noise of libraries."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from edgekd.cli.process import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable

EDGEKD = f"{sys.executable} -m edgekd"
EVALUATE = f"{EDGEKD} evaluate net.onnx --data data.npz"


@pytest.fixture
def folder(tmp_path: Path, make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray) -> Path:
    onnx.save(make_conv_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", input=images, labels=np.arange(64) % 4)
    return tmp_path


def shell(folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; the status of a pipe is that of its first command."""
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )


@pytest.mark.parametrize("line", ["recipe schema", "--help", "evaluate --help", "devices list"])
def test_a_reader_that_went_away_ends_it_quietly(folder: Path, line: str) -> None:
    ran = shell(folder, f"{EDGEKD} {line} | (exec <&-)")
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGPIPE, "")


def test_a_reader_of_progress_that_went_away_ends_it(folder: Path) -> None:
    ran = shell(folder, f"{EVALUATE} 2>&1 | (exec <&-)")
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGPIPE, "")


def test_a_result_is_written_though_nobody_reads_the_table(folder: Path) -> None:
    ran = shell(folder, f"{EVALUATE} --json e.json 2>log | (exec <&-)")
    assert ran.returncode == 128 + signal.SIGPIPE
    assert json.loads((folder / "e.json").read_bytes())["samples"] == 64


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_streams(folder: Path) -> None:
    ran = shell(folder, f"{EVALUATE} --json e.json >/dev/full")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == "edgekd: standard output: cannot write here: No space left on device"
    assert "Exception" not in ran.stderr
    assert (folder / "e.json").exists()
    ran = shell(folder, f"{EDGEKD} --help >/dev/full")
    assert (ran.returncode, ran.stderr) == (2, "edgekd: No space left on device (--debug shows where)\n")
    ran = shell(folder, f"{EVALUATE} 2>/dev/full")
    assert (ran.returncode, ran.stdout) == (0, "64 samples, top-1 25.00 %\n")
    assert shell(folder, f"{EDGEKD} evaluate absent.onnx --data data.npz 2>/dev/full").returncode == 3


@pytest.mark.parametrize("streams", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(folder: Path, streams: str) -> None:
    before = (folder / "net.onnx").read_bytes()
    ran = shell(folder, f"{EVALUATE} --json e.json {streams}")
    assert ran.returncode == 0
    assert ran.stdout == ("" if ">&-" in streams.split() else "64 samples, top-1 25.00 %\n")
    assert json.loads((folder / "e.json").read_bytes())["samples"] == 64
    assert (folder / "net.onnx").read_bytes() == before
    assert shell(folder, f"{EDGEKD} evaluate absent.onnx --data data.npz {streams}").returncode == 3


def test_names_that_cannot_be_printed(folder: Path) -> None:
    (folder / "net.onnx").rename(folder / os.fsdecode(b"n\xe9\xff.onnx"))
    line = f"{EDGEKD} quantize $'n\\xe9\\xff.onnx' --calibration data.npz -o $'q\\xff.onnx' --json q.json"
    ran = shell(folder, line, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ran.returncode == 0, ran.stderr
    assert "none of 3 layers can saturate" in ran.stdout


def test_sigterm_leaves_neither_child_nor_folder(folder: Path) -> None:
    temporary = folder / "temporary"
    temporary.mkdir()
    parent = subprocess.Popen(
        [*EDGEKD.split(), "bench", "net.onnx", "--duration", "10m", "--json", "b.json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 60
    while not (child := children.read_text().strip()):
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent.terminate()
    out, err = parent.communicate(timeout=60)
    assert (parent.returncode, out) == (128 + signal.SIGTERM, "")
    assert err.splitlines()[-1].startswith("edgekd: interrupted; ")
    assert "Traceback" not in err
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(temporary.iterdir()) == []
    assert not (folder / "b.json").exists()


def on_a_terminal(columns: int, code: str) -> str:
    """Run code whose standard output is a terminal of so many columns; return what it printed."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=writer, env=environment)
    os.close(writer)
    text = b""
    try:
        while piece := os.read(reader, 1 << 16):
            text += piece
    except OSError:
        pass  # how Linux says that the other end is closed
    os.close(reader)
    assert child.wait() == 0
    return text.decode().replace("\r\n", "\n")


TABLE = (
    "from edgekd.cli import ui\n"
    f"cells = [{'x' * 60!r}, '0.0123 ms', '1,234,567', '65.8 MB']\n"
    "ui.table('Title ' * 9, ('model', 'p90 bound', 'parameters', 'peak memory'), [cells])"
)


@pytest.mark.parametrize("columns", [10, 60, 200])
def test_a_table_is_never_cut(columns: int) -> None:
    text = on_a_terminal(columns, TABLE)
    for word in ("x" * 60, "0.0123 ms", "1,234,567", "65.8 MB", "p90 bound", "parameters", "peak memory"):
        assert word in text
    assert "…" not in text


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TABLE], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "20"}
    )
    assert f"{'x' * 60}   0.0123 ms    1,234,567       65.8 MB" in ran.stdout


def test_files_of_the_current_folder_pass_for_no_modules(folder: Path) -> None:
    for name in ("statistics", "random", "json", "onnx", "numpy", "typing", "click", "uuid", "logging", "tempfile"):
        (folder / f"{name}.py").write_text("raise SystemExit('shadowed')")
    ran = shell(folder, f"{EVALUATE} && {EDGEKD} bench net.onnx --runs 2")
    assert ran.returncode == 0, ran.stderr


def test_libraries_are_silent_beside_the_one_message(folder: Path, images: np.ndarray) -> None:
    model = onnx.load(folder / "net.onnx")
    shape = onnx.numpy_helper.from_array(np.array([7, 11]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["logits", "shape"], ["reshaped"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("reshaped", onnx.TensorProto.FLOAT, None))
    del model.graph.output[0]
    onnx.save(model, folder / "odd.onnx")
    np.savez(folder / "wide.npz", input=images.astype(np.float64) * 1e300)
    for line in ("odd.onnx --data data.npz", "net.onnx --data wide.npz"):
        ran = shell(folder, f"{EDGEKD} evaluate {line}")
        assert ran.returncode == 3
        progress, message = ran.stderr.splitlines()
        assert progress.endswith(" ...")
        assert message.startswith(f"edgekd: {line.split()[0]}: ")
    assert "[E:onnxruntime" in shell(folder, f"{EDGEKD} evaluate odd.onnx --data data.npz --debug").stderr


@pytest.mark.parametrize(
    ("chosen", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_of_torch_wait_briefly_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it comes back as it was
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    with surroundings(debug=False):
        assert os.environ.get("GOMP_SPINCOUNT") == spins
