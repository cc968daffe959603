"""What the documents say is run as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import bundle, quantize
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.doctor import diagnose
from edgekd.doctor.finding import Kind
from edgekd.quantization.saturation import certify
from edgekd.quantization.slow_blocks import Block, Quickened
from edgekd.quantization.static import Method
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def make_quick(recipe: Path) -> None:
    """Keep a recipe as it is but for its length: one epoch, short measurements."""
    text = re.sub(r"^epochs = \d+", "epochs = 1", recipe.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^max_drop = .*", "max_drop = 1.0", text, flags=re.MULTILINE)
    recipe.write_text(text + "\n[bench]\nduration_s = 0.02\nrepeats = 2\n")


def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    commands = [line[2:] for block in blocks(ROOT / "README.md", "console") for line in block.splitlines()]
    assert len(commands) >= 9
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "edgekd"
        ran = run([sys.executable, "-m", "edgekd", *arguments], tmp_path)
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
        if command.startswith("edgekd recipe init"):
            make_quick(tmp_path / "mine.toml")
    made = {path.name for path in (tmp_path / "runs" / "mine").iterdir()}
    assert made >= {"teacher.onnx", "control.onnx", "student.onnx", "student.int8.onnx", "report.json"}


def test_the_library_example_of_the_readme(tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    ran = run([sys.executable, "-W", "error::UserWarning", "-c", example], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "edgekd.evaluation/1" in ran.stdout


def test_the_makefile_has_what_the_readme_promises() -> None:
    makefile = (ROOT / "Makefile").read_text()
    documents = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"^make (\w+)", documents, re.MULTILINE)
    assert {"demo", "test", "lint"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_every_setting_stands_in_the_recipe_reference() -> None:
    from edgekd.recipe import recipe_schema

    reference = (ROOT / "docs" / "recipe.md").read_text()
    for name, section in recipe_schema()["$defs"].items():
        for key, setting in section["properties"].items():
            if key != "source":
                assert f"| `{key}` |" in reference, f"{name}.{key}"
                assert " ".join(setting["description"].split()) in reference, f"{name}.{key}"


def test_the_recipes_of_the_documents_are_sound(tmp_path: Path) -> None:
    """Those that name no file."""
    from edgekd.recipe_file import load_recipe

    rest = {
        "data": '[data]\nsource = "digits"',
        "teacher": '[teacher]\nmodel = "resnet20"',
        "student": '[student]\nmodel = "resnet8"',
    }
    for folder in ("labelled", "from-the-field"):
        (tmp_path / folder).mkdir()
    found = [(block, tomllib.loads(block)) for block in blocks(ROOT / "docs" / "distillation.md", "toml")]
    sound = [(block, sections) for block, sections in found if not sections.keys() & {"teacher", "teachers"}]
    assert len(sound) >= 6
    for number, (block, sections) in enumerate(sound):
        recipe = tmp_path / f"{number}.toml"
        recipe.write_text(
            "\n".join(['name = "n"', *(text for name, text in rest.items() if name not in sections), block])
        )
        load_recipe(recipe)


def keys(value: Any, path: str = "", *, open_at: Collection[str] = ("audit.quantized",)) -> set[str]:
    """Return the dotted paths of all keys in JSON data, but none of those below `open_at`, whose names vary."""
    if isinstance(value, list):
        return set().union(*(keys(entry, f"{path}[]", open_at=open_at) for entry in value))
    if not isinstance(value, dict) or path in open_at:
        return set()
    found = {f"{path}.{key}" if path else key: entry for key, entry in value.items()}
    return set(found) | set().union(*(keys(entry, name, open_at=open_at) for name, entry in found.items()))


def listed_keys(name: str) -> set[str]:
    """Return the keys that a document lists in the table of its JSON."""
    document = (ROOT / "docs" / name).read_text()
    return set(re.findall(r"^\| `([\w.\[\]]+)` \|", document.partition("## The JSON")[2], re.MULTILINE))


def test_every_key_of_a_quantization_stands_in_the_document(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray
) -> None:
    """Of files that have something to say under each of them: a missed gate, islands, times, layers that saturate."""
    model = make_conv_net()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    weight.raw_data = (np.abs(numpy_helper.to_array(weight)) / 20).tobytes()
    model.graph.node.insert(7, helper.make_node("Erf", ["f"], ["e"], "erf"))
    model.graph.node[8].input[0] = "e"
    content, evaluation = model.SerializeToString(), {"input": images}
    narrow = {"input": images * np.float32(0.001)}
    static = quantize(content, narrow, None, evaluation=evaluation, max_drop=0.0, measure=True)
    dynamic = quantize(content, None, None, mode="dynamic", evaluation=evaluation)
    unsafe = quantize(content, narrow, None, target="x86-vnni").content
    certificate = certify(onnx.load_from_string(unsafe), TARGETS["x86-avx2"]).to_json()
    ratio = paired_ratio([1.0], [1.0])
    slow = Quickened(
        content=b"", before=ratio, fp32=(), gain=None, blocks=(Block(layers=("conv1",), ratio=ratio),)
    ).to_json()
    found = keys(static.to_json() | {"saturation": certificate, "slow_blocks": slow}) | keys(dynamic.to_json())
    assert {"speed.ratio.median", "saturation.worst[].excess", "audit.fp32_islands[].share"} <= found
    assert {"mixed_precision.sensitivities[].noise", "effective.batch_dependent"} <= found
    assert found - {f"effective.{field.name}" for field in fields(Method)} == listed_keys("quantization.md")


def test_every_key_of_a_diagnosis_stands_in_the_document(
    make_conv_net: Callable[..., onnx.ModelProto], images: np.ndarray, tmp_path: Path
) -> None:
    """Of files that have something to say under each of them: open axes, weights beside the file, conversions."""
    path, library = tmp_path / "net.onnx", tmp_path / "lib.so"
    model = onnx.load_from_string(quantize(make_conv_net().SerializeToString(), {"input": images}, None).content)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    library.write_bytes(b"\x7fELF")
    bundle([path], tmp_path / "app", platforms=["python"], data={"input": images})
    content = diagnose([path, library, tmp_path / "app"]).to_json()
    names_vary = {
        *("versions", "extras", "models[].opsets", "models[].operators", "models[].saturation"),
        *("models[].conversions.unfused", "models[].subnormals"),
    }
    found = keys(content, open_at=names_vary)
    assert {"models[].open_axes[].name", "models[].external_data[].problem", "libraries[].findings[].kind"} <= found
    of_findings = re.compile(r"^(models\[\]|libraries\[\]|bundles\[\])\.(findings\[\]\.)")
    listed = listed_keys("doctor.md")
    assert {of_findings.sub(r"\2", key) for key in found} == listed
    document = (ROOT / "docs" / "doctor.md").read_text()
    assert set(content["extras"]["train"]) == {
        key for key in ("missing", "install") if f"`extras.*.{key}`" in document
    }
    for kind in get_args(Kind):
        assert f"\n| `{kind}` |" in document


def test_the_extras_are_those_that_the_code_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = "".join(path.read_text() for path in (ROOT / "edgekd").rglob("*.py"))
    named = set(re.findall(r'require_extra\("(\w+)"', code))
    assert "train" in named
    assert named <= set(project["optional-dependencies"])
    assert not any(requirement.startswith("torch") for requirement in project["dependencies"])
