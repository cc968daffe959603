from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import sha256_file
from edgekd.benchmarking.answers import device_answers
from edgekd.benchmarking.bench import bench
from edgekd.benchmarking.results import Device, read_result
from edgekd.cli import main
from edgekd.devices import load_profile
from edgekd.drivers import device_state, open_driver, qemu_arm, qemu_x86
from edgekd.errors import DeviceError
from edgekd.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.xdist_group("qemu")  # one worker makes the sysroot, and the cores are few


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def emulator(needed: Callable[[str, Path], Path]) -> Path:
    return needed("qemu", Path("/usr/bin/qemu-aarch64-static"))


@pytest.fixture
def x86_emulator(needed: Callable[[str, Path], Path]) -> Path:
    return needed("qemu", Path("/usr/bin/qemu-x86_64-static"))


def saturating_model(path: Path) -> Path:
    """u8 x s8 whose adjacent products exceed int16: x86 without VNNI answers wrong, ARM does not."""
    weights = numpy_helper.from_array(np.full((8, 4), 127, np.int8) * np.array([1, -1, 1, -1], np.int8), "w")
    x = helper.make_tensor_value_info("file", TensorProto.UINT8, ["n", 8])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 4])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["file", "w"], ["y"])], "g", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("name", ["qemu-cortex-a53", "qemu-cortex-a76", "qemu-max-i8mm", "qemu-haswell"])
def test_a_core_answers_as_its_kernels_do(tmp_path: Path, emulator: Path, name: str) -> None:
    model = saturating_model(tmp_path / "m.onnx")
    rows = np.full((3, 8), 255, np.uint8)
    rows[1] = 7
    with open_driver(load_profile(name)) as driver:
        facts = driver.probe()
        batches = [({"file": rows}, 3), ({"file": rows[:1]}, 1)]
        answers = list(device_answers(driver, model, sha256_file(model), batches))
    assert facts.target == load_profile(name).target
    assert "emulated by qemu" in facts.cpu_model
    pairs = 2 * rows.astype(np.int32)[:, :1] * np.array([127, -127, 127, -127])  # 64770 where an input is 255
    expected = 4 * (np.clip(pairs, -32768, 32767) if name == "qemu-haswell" else pairs)
    np.testing.assert_array_equal(answers[0][0], expected)
    np.testing.assert_array_equal(answers[1][0], expected[:1])
    assert [count for _, count in answers] == [3, 1]


def test_evaluate_and_bench_on_a_core(
    tmp_path: Path,
    emulator: Path,
    make_conv_net: Callable[..., onnx.ModelProto],
    images: np.ndarray,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(make_conv_net(batch=3), model)
    result = evaluate(model, {"input": images[:4]}, reference=model, device="qemu-cortex-a76")
    assert (result.device, result.samples, result.agreement) == ("qemu-cortex-a76", 4, 1.0)
    assert result.sqnr_db is not None
    assert result.sqnr_db > 60  # float32 sums in another order

    with pytest.raises(SystemExit) as end:
        main(["bench", str(model), "--device", "qemu-cortex-a76", "--json", str(tmp_path / "b.json")])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "only answers count; times and memory would be the emulator's" in shown
    assert " ms" not in shown
    assert " MB" not in shown
    content = json.loads((tmp_path / "b.json").read_text())
    (found,) = content["models"]
    assert found["latency_ms"] is None
    assert found["memory_bytes"] is None
    assert {key for key, value in found.items() if value is not None} <= {
        *("path", "sha256", "threads", "session", "inputs", "repetitions"),
    }
    assert found["inputs"]["input"]["shape"] == [3, 3, 8, 8]
    assert read_result(tmp_path / "b.json").device.target == "arm64-dotprod"


def test_evaluate_and_bench_on_an_older_core_of_this_machines_kind(
    tmp_path: Path, x86_emulator: Path, make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(make_conv_net(), model)
    result = evaluate(model, {"input": images[:4]}, reference=model, device="qemu-haswell")
    assert (result.device, result.agreement) == ("qemu-haswell", 1.0)
    found = bench([model], device="qemu-haswell")
    assert found.device == Device(name="qemu-haswell", target="x86-avx2")
    assert found.conditions.cpu_model.startswith("Haswell, emulated by qemu-x86_64 version ")
    assert found.models[0].latency_ms is None


def test_the_older_core_runs_this_python_and_nothing_says_more(
    tmp_path: Path, x86_emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEMU_CPU", "Nehalem")
    monkeypatch.setenv("QEMU_VERSION", "1")  # with it QEMU says its version and ends
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nprint(sys.version_info[:3], os.environ['ORT_DISABLE_TELEMETRY'])")
    with open_driver(load_profile("qemu-haswell")) as driver:
        assert driver.run(driver.push(script), []).log == f"{tuple(sys.version_info[:3])} 1"
        assert sys.executable in driver.install()


def test_an_older_core_without_avx2_is_refused(
    tmp_path: Path, x86_emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path))
    (tmp_path / "odd.toml").write_text(
        'description = "x"\ndriver = "qemu"\n[qemu]\nmachine = "x86_64"\ncpu = "Nehalem"\n'
    )
    odd = load_profile("odd")
    message = "device odd: this emulator's Nehalem lacks avx2 and fma: qemu-x86_64 version .* is too old for it"
    with pytest.raises(DeviceError, match=message), open_driver(odd):
        pass
    assert device_state(odd) == "not offered: this emulator lacks it"


def fake_build(folder: Path, count: str) -> Path:
    """Make a QEMU that says of `runs` runs what an expression gives, and emulates nothing."""
    (folder / "tests" / "tcg").mkdir(parents=True)
    (folder / "tests" / "tcg" / "libinsn.so").touch()
    program = folder / "qemu-x86_64"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys\nplugin, log, rest = sys.argv[2], sys.argv[6], sys.argv[7:]\n"
        f"assert sys.argv[1:6] == ['-plugin', '{folder}/tests/tcg/libinsn.so,inline=on', '-d', 'plugin', '-D']\n"
        f"runs = json.loads(pathlib.Path(rest[-2]).read_text())['more_runs']\n"
        f"pathlib.Path(log).write_text({count})\n"
        "os.execv(rest[2], rest[2:])\n"  # this machine's own core is quicker
    )
    program.chmod(0o755)
    return folder


def test_instructions_where_qemu_counts_them(
    tmp_path: Path,
    x86_emulator: Path,
    make_conv_net: Callable[..., onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(make_conv_net(), model)
    # Starts differ: the process of few runs seems dearer than it is, and a second look takes more runs.
    count = "f'cpu 0 insns: 5\\ntotal insns: {10**9 + 40_000 * (runs == 2) + 250_000 * runs}\\n'"
    monkeypatch.setenv("EDGEKD_QEMU_BUILD", str(fake_build(tmp_path / "build", count)))
    with pytest.raises(SystemExit) as end:
        main(["bench", str(model), "--device=qemu-haswell", "--threads=1,2", f"--json={tmp_path / 'b.json'}"])
    assert end.value.code == 0
    assert [one.instructions for one in read_result(tmp_path / "b.json").models] == [250_000, None]
    shown = capsys.readouterr().out
    assert "250,000" in shown
    assert "peak memory" not in shown


def test_many_instructions_are_counted_with_few_runs(
    tmp_path: Path, x86_emulator: Path, make_conv_net: Callable[..., onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(make_conv_net(), model)
    count = "f'insns: {10**9 + 79_000_000 * runs if runs <= 4 else 0}\\n'"
    monkeypatch.setenv("EDGEKD_QEMU_BUILD", str(fake_build(tmp_path / "build", count)))
    assert bench([model], device="qemu-haswell").models[0].instructions == 79_000_000


def test_a_build_of_qemu_that_cannot_count(
    tmp_path: Path, x86_emulator: Path, make_conv_net: Callable[..., onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(make_conv_net(), model)
    monkeypatch.setenv("EDGEKD_QEMU_BUILD", str(tmp_path))
    with pytest.raises(DeviceError, match=r"EDGEKD_QEMU_BUILD=.*no QEMU was built there with plugins"):
        bench([model], device="qemu-haswell")
    build = fake_build(tmp_path / "build", "'odd'")
    monkeypatch.setenv("EDGEKD_QEMU_BUILD", str(build))
    with pytest.raises(DeviceError, match=r"libinsn.so gives no number of instructions; it said: odd"):
        bench([model], device="qemu-haswell")
    (build / "qemu-x86_64").unlink()  # built for another kind of machine
    assert bench([model], device="qemu-haswell").models[0].instructions is None


def test_a_machine_of_another_kind_has_no_older_core(x86_emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    haswell = load_profile("qemu-haswell")
    assert device_state(haswell) == "needs an x86-64 machine"
    with (
        pytest.raises(DeviceError, match="own Python, which is for aarch64, not for x86-64"),
        open_driver(haswell),
    ):
        pass


def test_a_killed_process_and_a_clean_environment(
    tmp_path: Path, emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "decoy.py").touch()
    script = tmp_path / "script.py"
    with open_driver(load_profile("qemu-cortex-a53")) as driver:
        script.write_text(
            "import platform, sys, os\nassert platform.machine() == 'aarch64'\n"
            "try:\n    import decoy\nexcept ImportError:\n    print('clean', os.environ['ORT_DISABLE_TELEMETRY'])\n"
        )
        assert driver.run(driver.push(script), []).log == "clean 1"
        script.write_text("import os\nos.kill(os.getpid(), 9)")
        with pytest.raises(DeviceError, match=r"device qemu-cortex-a53: .*ran out of memory"):
            driver.run(driver.push(script), [])


def test_an_emulator_that_lacks_what_the_profile_says(
    tmp_path: Path, emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path))
    (tmp_path / "odd.toml").write_text(
        'description = "x"\ndriver = "qemu"\ntarget = "arm64-i8mm"\n[qemu]\ncpu = "cortex-a53"\npart = "0xd03"\n'
    )
    with (
        pytest.raises(
            DeviceError, match="device odd: this emulator's cortex-a53 is arm64, the profile says arm64-i8mm"
        ),
        open_driver(load_profile("odd")),
    ):
        pass
    (tmp_path / "odd.toml").write_text(
        'description = "x"\ndriver = "qemu"\n[qemu]\ncpu = "cortex-z9"\npart = "0xd03"\n'
    )
    with (
        pytest.raises(DeviceError, match=r"device odd: Python does not start in the emulator; it said: .*cortex-z9"),
        open_driver(load_profile("odd")),
    ):
        pass


def test_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with (
        pytest.raises(DeviceError, match="qemu-aarch64-static is not here; on Debian: apt-get install"),
        open_driver(load_profile("qemu-cortex-a76")),
    ):
        pass


def test_whether_a_core_is_offered(tmp_path: Path, emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICES", str(tmp_path))
    (tmp_path / "odd.toml").write_text(
        'description = "x"\ndriver = "qemu"\ntarget = "arm64-i8mm"\n[qemu]\ncpu = "cortex-a53"\npart = "0xd03"\n'
    )
    with open_driver(load_profile("qemu-max-i8mm")) as driver:  # the sysroot is there
        assert "qemu-max-i8mm: ready" in driver.install()
    assert device_state(load_profile("qemu-max-i8mm")) == "ready"
    assert device_state(load_profile("odd")) == "not offered: this emulator lacks it"
    assert (device_state(load_profile("local")), device_state(load_profile("rock-5b"))) == ("ready", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert device_state(load_profile("qemu-max-i8mm")) == "to be prepared"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert device_state(load_profile("qemu-max-i8mm")) == "needs qemu-aarch64-static"


def test_features_are_named_as_the_kernel_names_them() -> None:
    assert qemu_arm.features(0b11, 1 << 13) == ("fp", "asimd", "i8mm")
    assert qemu_arm.features(1 << 20, 0) == ("asimddp",)
    text = qemu_arm.cpuinfo("0xd0b", ("fp", "asimd"))
    assert "Features\t: fp asimd\n" in text
    assert "CPU part\t: 0xd0b\n" in text
    assert text.endswith("\n\n")
    assert qemu_x86.features([1, 1, 0, 1]) == {"fma", "avx2", "avx_vnni"}


def test_the_cores_of_the_profiles_are_those_of_the_emulator(emulator: Path, x86_emulator: Path) -> None:
    for program, names in ((emulator, ("qemu-cortex-a53", "qemu-cortex-a76")), (x86_emulator, ("qemu-haswell",))):
        listed = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False)
        assert {load_profile(name).qemu.cpu for name in names} <= set(listed.stdout.split())  # type: ignore[union-attr]
