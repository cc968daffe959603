"""Models of users' own. Each test has its own module name: a module stays imported for the whole process."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from edgekd.errors import ModelError, UsageError
from edgekd.models import build, source_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, inputs, classes=3):
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.fc = nn.Linear(inputs, classes)
        self.norm.eval()

    def forward(self, x):
        return self.fc(self.norm(x))

def lazy():
    import helper_of_mine
    return helper_of_mine.make()

def whole_list(): return [nn.Linear(4, 3)]
def a_class(): return nn.Linear
def broken(): raise RuntimeError("no such backbone")
def tuples():
    class Two(Net):
        def forward(self, x):
            return super().forward(x), x
    return Two(4)
NUMBER = 3
"""


def forget(folder: Path) -> None:
    """Let what was imported from a folder be imported anew."""
    for name, module in list(sys.modules.items()):
        if str(folder) in str(getattr(module, "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second must be seen
    (tmp_path / "nets_of_mine.py").write_text(NET)
    yield tmp_path
    forget(tmp_path)


def test_builds_from_the_working_directory_and_restores_the_path(folder: Path) -> None:
    (folder / "helper_of_mine.py").write_text("from nets_of_mine import Net\n\ndef make(): return Net(4)\n")
    before = sys.path.copy()
    model = build("nets_of_mine:Net", classes=5, shape=(4,), arguments={"inputs": 4, "classes": 5})
    assert model(torch.zeros(2, 4)).shape == (2, 5)
    assert type(build("nets_of_mine:lazy", classes=3, shape=(4,))).__name__ == "Net"
    assert sys.path == before


def test_trying_a_model_leaves_its_modes_and_statistics(folder: Path) -> None:
    model = build("nets_of_mine:Net", classes=3, shape=(4,), arguments={"inputs": 4})
    assert model.training
    assert not model.get_submodule("norm").training
    assert model.get_submodule("norm").num_batches_tracked == 0


def test_builds_from_a_package(folder: Path) -> None:
    (folder / "pack_of_mine").mkdir()
    (folder / "pack_of_mine" / "__init__.py").write_text("")
    (folder / "pack_of_mine" / "net.py").write_text(NET)
    assert build("pack_of_mine.net:Net", classes=3, shape=(4,), arguments={"inputs": 4})(torch.zeros(2, 4)).shape == (
        2,
        3,
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nets_of_mine:", {}, "must read package.module:factory"),
        ("./nets_of_mine.py:Net", {}, "must read package.module:factory"),
        ("nets_of_mine.py:Net", {}, "without .py"),
        ("nets_of_yours:Net", {}, "no module 'nets_of_yours', neither in .*, nor beside the recipe, nor installed$"),
        ("nets_of_mine:Nett", {}, "nets_of_mine has no 'Nett' .perhaps you meant 'Net'"),
        ("nets_of_mine:NUMBER", {}, "a factory is a function or a class, found int"),
        ("nets_of_mine:Net", {}, "missing a required argument: 'inputs'; it takes .inputs, classes=3."),
        ("nets_of_mine:Net", {"input": 4}, "takes no argument 'input' .perhaps you meant 'inputs'"),
        ("sys:exit", {}, "no file"),
    ],
)
def test_a_wrong_call_is_a_usage_error(folder: Path, name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, classes=3, shape=(4,), arguments=arguments)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("whole_list", "must return a torch.nn.Module, found list"),
        ("a_class", "must return a torch.nn.Module, found the class Linear"),
        ("broken", "calling it failed: RuntimeError: no such backbone"),
        ("lazy", "calling it failed: ModuleNotFoundError: No module named 'helper_of_mine'"),
        ("tuples", r"logits of shape \(N, 3\), found tuple"),
    ],
)
def test_a_factory_that_gives_no_classifier_is_a_model_error(folder: Path, factory: str, message: str) -> None:
    before = sys.path.copy()
    with pytest.raises(ModelError, match=message):
        build(f"nets_of_mine:{factory}", classes=3, shape=(4,))
    assert sys.path == before


def test_a_model_that_does_not_fit_the_data_is_a_model_error(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"does not take float32 of shape \(N, 5\): RuntimeError"):
        build("nets_of_mine:Net", classes=3, shape=(5,), arguments={"inputs": 4})
    with pytest.raises(ModelError, match=r"\(N, 10\) for 10 classes, found \(2, 3\) for N = 2"):
        build("nets_of_mine:Net", classes=10, shape=(4,), arguments={"inputs": 4})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def (:", "importing it failed: SyntaxError"),
        (
            "import package_nobody_has",
            "importing it failed: ModuleNotFoundError: No module named 'package_nobody_has'",
        ),
        ("raise SystemExit(2)", "importing it failed: SystemExit: 2"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_model_error(folder: Path, source: str, message: str) -> None:
    (folder / "broken_of_mine.py").write_text(source)
    with pytest.raises(ModelError, match=message):
        build("broken_of_mine:Net", classes=3, shape=(4,))


def test_source_digest_is_that_of_the_code_in_use(folder: Path) -> None:
    file = folder / "nets_of_mine.py"
    first = source_digest("nets_of_mine:Net")
    file.write_text(NET + "# edited\n")
    assert source_digest("nets_of_mine:Net") == first, "the old code is still the one that runs"
    sys.path.insert(0, str(folder))
    try:
        importlib.reload(sys.modules["nets_of_mine"])
    finally:
        sys.path.remove(str(folder))
    assert source_digest("nets_of_mine:Net") != first


def fresh_digest(folder: Path, name: str) -> str | None:
    """Return a digest as another run finds it, with nothing of `folder` imported so far."""
    forget(folder)
    return source_digest(name)


def test_source_digest_counts_every_own_file_that_is_imported(folder: Path) -> None:
    files = {
        "kit/__init__.py": "",
        "kit/nets/__init__.py": "from .blocks import block\n",
        "kit/nets/net.py": "from . import blocks\nfrom ..tools import tool\nimport beside\ndef make():\n    import late\n",
        "kit/nets/blocks.py": "def block(): pass\n",
        "kit/tools/__init__.py": "",
        "kit/tools/tool.py": "import deep.down\n",
        "deep/down.py": "import torch\n",
        "beside.py": "",
        "late.py": "import kit.nets.net\n",
        "unrelated.py": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    first = fresh_digest(folder, "kit.nets.net:make")
    assert fresh_digest(folder, "kit.nets.net:make") == first
    changed = {}
    for name, text in files.items():
        (folder / name).write_text(text + "# edited\n")
        changed[name] = fresh_digest(folder, "kit.nets.net:make") != first
        (folder / name).write_text(text)
    assert changed == {name: name != "unrelated.py" for name in files}


def test_an_installed_packages_neighbours_are_not_its_own_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = folder / "site-packages"
    installed.mkdir()
    (installed / "net_installed.py").write_text("import library_installed\ndef make(): pass\n")
    (installed / "library_installed.py").write_text("")
    monkeypatch.syspath_prepend(installed)
    first = fresh_digest(installed, "net_installed:make")
    (installed / "library_installed.py").write_text("# another version\n")
    assert fresh_digest(installed, "net_installed:make") == first


def test_a_factory_is_found_in_the_recipes_folder(folder: Path) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes" / "net_beside_the_recipe.py").write_text(NET)
    model = build(
        "net_beside_the_recipe:Net",
        classes=3,
        shape=(4,),
        arguments={"inputs": 4},
        folder=folder / "recipes",
    )
    assert model(torch.zeros(2, 4)).shape == (2, 3)
    assert source_digest("net_beside_the_recipe:Net", folder / "recipes")


def test_source_digest_of_nothing_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="no module"):
        source_digest("nets_of_yours:Net")
