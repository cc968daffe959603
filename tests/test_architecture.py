"""The house as docs/architecture.md draws it: which room may import which, and where torch may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd
from edgekd.cli import VERBS

PACKAGE = Path(edgekd.__file__).parent

# Leaves first. A room may import what stands above it in this table, if it is named.
WORDS = {"errors", "text", "progress"}
LEAVES = WORDS | {
    "launch",
    "artifact",
    "temporary",
    "metrics",
    "targets",
    "settings",
    "terms",
    "data_settings",
    "recipe",
    "recipe_file",
    "resources",
    "seeds",
    "shift",
}
ALLOWED = {
    "errors": set(),
    "text": set(),
    "progress": set(),
    "launch": WORDS,
    "artifact": WORDS,
    "temporary": WORDS,
    "metrics": WORDS,
    "targets": WORDS,
    "resources": WORDS,
    "seeds": WORDS,
    "shift": WORDS | {"artifact", "metrics"},
    "settings": WORDS,
    "terms": WORDS | {"settings"},
    "data_settings": WORDS | {"settings"},
    "recipe": WORDS | {"settings", "terms", "data_settings"},
    "recipe_file": WORDS | {"settings", "terms", "data_settings", "recipe"},
    "data": LEAVES,
    "models": LEAVES,
    "runtime": LEAVES | {"data"},
    "inference": LEAVES | {"data", "runtime"},
    "scoring": LEAVES,
    "graph": LEAVES | {"runtime"},
    "distillation": LEAVES | {"data", "models", "runtime", "inference", "graph"},
    "stages": LEAVES | {"distillation"},
    "onnx_export": LEAVES | {"data", "models", "runtime", "graph"},
    "devices": LEAVES,
    "drivers": LEAVES | {"devices"},
    "benchmarking": LEAVES | {"devices", "drivers"},
    "preflight": LEAVES | {"data", "models", "devices", "distillation"},
    "reporting": LEAVES,
    "run_report": LEAVES | {"benchmarking"},
    "quantization": LEAVES | {"data", "runtime", "inference", "graph", "scoring", "benchmarking"},
    "evaluation": LEAVES | {"data", "runtime", "inference", "scoring", "devices", "drivers", "benchmarking"},
    "onnx_versions": LEAVES | {"graph"},
    "bundling": LEAVES
    | {"onnx_versions", "data", "runtime", "inference", "quantization", "devices", "drivers", "benchmarking"},
    "doctor": LEAVES
    | {"bundling", "onnx_versions", "data", "runtime", "graph", "quantization", "devices", "drivers"},
    "run_measures": LEAVES | {"data", "runtime", "inference", "scoring", "devices", "drivers", "benchmarking"},
    "run_networks": LEAVES | {"stages", "data", "models", "distillation"},
    "run_teachers": LEAVES | {"run_networks", "stages", "data", "distillation", "models"},
    "run_training": LEAVES | {"run_networks", "run_teachers", "stages", "data", "distillation"},
    "pipeline": LEAVES
    | {
        "stages",
        "distillation",
        "preflight",
        "reporting",
        "data",
        "onnx_export",
        "quantization",
        "drivers",
        "run_report",
        "run_measures",
        "run_training",
    },
    "search": LEAVES | {"pipeline", "preflight", "distillation"},
}
TORCH_ROOMS = {"data/torch_data.py", "models", "distillation", "compression", "onnx_export.py", "run_networks.py"}
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "pydantic", "rich.progress", "PIL", "sklearn")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module a file imports, also inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_arrows(path: Path) -> None:
    if room(path) in ("__init__", "__main__", "cli"):
        return
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("edgekd.")}
    assert rooms - ALLOWED[room(path)] - {room(path)} == set()


def test_the_table_has_no_circle() -> None:
    seen: set[str] = set()
    for name, below in ALLOWED.items():
        assert below <= seen | LEAVES, f"{name} imports a room that stands below it in the table"
        seen.add(name)


def test_every_room_is_in_the_table() -> None:
    rooms = {room(path) for path in modules()} - {"__init__", "__main__", "cli"}
    assert rooms == set(ALLOWED)


def test_torch_is_imported_only_where_it_belongs() -> None:
    for path in modules():
        name = str(path.relative_to(PACKAGE))
        if name not in TORCH_ROOMS and room(path) not in TORCH_ROOMS:
            assert not {i for i in imports(path) if i.split(".")[0] == "torch"}, name


@pytest.mark.parametrize(
    "name",
    [
        *("benchmarking/runner.py", "benchmarking/answering.py", "benchmarking/paced.py", "benchmarking/metered.py"),
        *("benchmarking/profiled.py", "drivers/agent.py"),
    ],
)
def test_what_is_pushed_to_boards_imports_nothing_of_edgekd(name: str) -> None:
    assert not {i for i in imports(PACKAGE / name) if i.split(".")[0] == "edgekd"}


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"from edgekd.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code"
    assert not loaded_by(code) & set(HEAVY)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import edgekd") & set(HEAVY)


@pytest.mark.parametrize("name", edgekd.__all__)
def test_public_names_are_there_and_documented(name: str) -> None:
    value = getattr(edgekd, name)
    assert isinstance(value, str) or value.__doc__
    assert name in dir(edgekd)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        edgekd.quantise  # noqa: B018


def test_importing_sets_the_telemetry_switch_and_keeps_a_users_choice() -> None:
    code = "import os\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\nimport edgekd\nassert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    loaded_by(code)
    code = "import os\nos.environ['ORT_DISABLE_TELEMETRY'] = '0'\nimport edgekd\nassert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    loaded_by(code)
