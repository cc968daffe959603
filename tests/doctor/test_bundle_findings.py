"""What `doctor` finds of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ed25519

from edgekd import bundle
from edgekd.bundling.manifest import MANIFEST
from edgekd.bundling.signature import public_hex, read_private_key
from edgekd.cli import cli
from edgekd.doctor import Diagnosis, diagnose
from edgekd.errors import ModelError, UsageError
from edgekd.targets import detect_host
from tests.bundling.test_signature import pem
from tests.conftest import conv_net


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(conv_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def app(model: Path, tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    bundle([model], tmp_path / "app", platforms=["python"], data={"input": values})
    return tmp_path / "app"


def found(diagnosis: Diagnosis, severity: str) -> list[str]:
    (report,) = diagnosis.bundles
    return [f"{one.kind}: {one.message}" for one in report.findings if one.severity == severity]


def change(app: Path, where: str, **values: object) -> None:
    content = json.loads((app / MANIFEST).read_bytes())
    place = content
    for key in where.split("."):
        place = place[key] if key else place
    place.update(values)
    (app / MANIFEST).write_text(json.dumps(content))


def test_a_sound_bundle(app: Path) -> None:
    diagnosis = diagnose([app])
    (report,) = diagnosis.bundles
    assert (report.name, report.signed, report.model) == ("net", False, "models/net.onnx")
    (difference,) = report.differences
    assert difference.is_right
    assert report.findings == ()
    assert [Path(one.path).name for one in diagnosis.models] == ["net.onnx"]
    diagnosis.require_sound()
    assert diagnose([app / MANIFEST]).to_json()["bundles"] == diagnosis.to_json()["bundles"]


def test_a_damaged_file(app: Path) -> None:
    (app / "models/net.onnx").write_bytes((app / "models/net.onnx").read_bytes()[:-1])
    diagnosis = diagnose([app])
    assert "truncated or changed" in found(diagnosis, "error")[0]
    assert diagnosis.models == ()
    with pytest.raises(ModelError, match="truncated or changed"):
        diagnosis.require_sound()


@pytest.mark.parametrize("values", [{"apart": 0.5}, {"apart": np.nan}])
def test_other_answers(values: dict[str, float], app: Path) -> None:
    import hashlib

    content = json.loads((app / MANIFEST).read_bytes())
    (output,) = content["targets"][detect_host().name]["expected"]["outputs"]
    changed = np.fromfile(app / output["path"], "<f4")
    changed[0] += values["apart"]
    changed.tofile(app / output["path"])
    for entry in content["files"]:
        if entry["path"] == output["path"]:
            entry["sha256"] = hashlib.sha256((app / entry["path"]).read_bytes()).hexdigest()
    (app / MANIFEST).write_text(json.dumps(content))
    told = "0.5" if values["apart"] == 0.5 else "NaN"
    assert f"answers: logits differs by {told} from what is expected here" in found(diagnose([app]), "error")[0]


def test_a_runtime_that_is_too_old(app: Path) -> None:
    change(app, "runtime.onnxruntime", least="99.0.0")
    assert "bundle: its models need onnxruntime 99.0.0" in found(diagnose([app]), "error")[0]


def test_no_model_for_this_cpu(app: Path) -> None:
    content = json.loads((app / MANIFEST).read_bytes())
    change(app, "", targets={"wasm": content["targets"]["wasm"]})
    diagnosis = diagnose([app])
    assert found(diagnosis, "error") == [f"bundle: no model in it is right on {detect_host().name}"]
    assert "x86-avx2" in found(diagnosis, "info")[0] or detect_host().name == "x86-avx2"


def test_what_is_not_needed_or_not_real(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(conv_net(seed=1), other)
    bundle([model, other], tmp_path / "two", platforms=["python"])
    assert found(diagnose([tmp_path / "two"]), "warning") == [
        "bundle: its golden inputs are made up",
        "bundle: no CPU gets models/other.onnx: another model is better on each",
    ]


def test_another_target_is_not_run(app: Path) -> None:
    other = "arm64" if detect_host().machine == "x86_64" else "x86-avx2"
    (report,) = diagnose([app], target=other).bundles
    assert (report.model, report.differences) == ("models/net.onnx", ())


def test_signatures(model: Path, tmp_path: Path) -> None:
    pem(ed25519.Ed25519PrivateKey.generate(), tmp_path / "key.pem")
    bundle([model], tmp_path / "signed", platforms=["python"], sign=tmp_path / "key.pem")
    public = public_hex(read_private_key(tmp_path / "key.pem"))
    diagnosis = diagnose([tmp_path / "signed"], public_key=public)
    assert (diagnosis.bundles[0].signed, found(diagnosis, "error")) == (True, [])
    assert (
        "signature is not of the given key" in found(diagnose([tmp_path / "signed"], public_key="1" * 64), "error")[0]
    )
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        diagnose([tmp_path / "signed"], public_key="1")


def test_the_command(app: Path) -> None:
    ran = CliRunner().invoke(cli, ["doctor", str(app)])
    assert ran.exit_code == 0, ran.output
    assert f"{app}: whole, not signed; this CPU gets models/net.onnx; logits differs by " in ran.output
    (app / MANIFEST).write_text("{")
    ran = CliRunner().invoke(cli, ["doctor", str(app)])
    assert f"{app}: cannot be used" in ran.output
    assert isinstance(ran.exception, ModelError)
