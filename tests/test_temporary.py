"""Room for temporary files, and one message where there is none."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from edgekd.errors import ModelError, OutputError
from edgekd.graph.folding import fold
from edgekd.quantization.audit import audit
from edgekd.temporary import temporary_folder, temporary_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx


def test_a_private_folder_vanishes_with_its_block() -> None:
    with temporary_folder() as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()


def test_nothing_takes_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere", "/proc"])
    message = r"^temporary files: .*\['/nowhere', '/proc'\]; free some space or set TMPDIR to another folder$"
    with pytest.raises(OutputError, match=message), temporary_folder():
        pass


def test_other_errors_pass() -> None:
    with pytest.raises(ModelError, match=r"^mine$"), temporary_room():
        raise ModelError("mine")


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("step", [fold, lambda content, name: audit(content, name=name)], ids=["fold", "audit"])
@pytest.mark.parametrize("missing", [1, 3000], ids=["a little", "most"])
def test_a_full_folder_is_not_the_models_fault(
    step: Callable[[bytes, str], object], missing: int, make_conv_net: Callable[..., onnx.ModelProto]
) -> None:
    content = make_conv_net().SerializeToString()
    with files_of_at_most(len(content) - missing), pytest.raises(OutputError, match="cannot write temporary files"):
        step(content, "net.onnx")
    with files_of_at_most(10), pytest.raises(ModelError, match=r"^net\.onnx: not an ONNX model"):
        step(content[:-100], "net.onnx")
