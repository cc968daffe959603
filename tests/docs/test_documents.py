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
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekd import quantize
from edgekd.benchmarking.statistics import paired_ratio
from edgekd.quantization.saturation import certify
from edgekd.quantization.slow_blocks import Block, Quickened
from edgekd.quantization.static import Method
from edgekd.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable

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


def keys(value: Any, path: str = "") -> set[str]:
    """Return the dotted paths of all keys in JSON data; `audit.quantized` counts by operator, whose names vary."""
    if isinstance(value, list):
        return set().union(*(keys(entry, f"{path}[]") for entry in value))
    if not isinstance(value, dict) or path == "audit.quantized":
        return set()
    found = {f"{path}.{key}" if path else key: entry for key, entry in value.items()}
    return set(found) | set().union(*(keys(entry, name) for name, entry in found.items()))


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
    document = (ROOT / "docs" / "quantization.md").read_text()
    listed = set(re.findall(r"^\| `([\w.\[\]]+)` \|", document.partition("## The JSON")[2], re.MULTILINE))
    assert found - {f"effective.{field.name}" for field in fields(Method)} == listed


def test_the_extras_are_those_that_the_code_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = "".join(path.read_text() for path in (ROOT / "edgekd").rglob("*.py"))
    named = set(re.findall(r'require_extra\("(\w+)"', code))
    assert "train" in named
    assert named <= set(project["optional-dependencies"])
    assert not any(requirement.startswith("torch") for requirement in project["dependencies"])
