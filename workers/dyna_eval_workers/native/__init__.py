"""The kernels for CPUs: their C++ source, built on the machine that uses them, and its functions.

The source is compiled once per machine, compiler and version of the source, in a few seconds, and kept in the
user's cache folder. It needs a C++20 compiler with OpenMP and GCC's vector extensions: tried with GCC 12,
on x86 from SSE4 to AVX-512; for ARM its products ran under emulation, no more.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from dyna_eval.errors import NoFolderError, NoKernelsError, first_line

SOURCE = Path(__file__).with_name("transformer.cpp")
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-Wno-psabi")
_FLAGS_OF_LIBRARIES = ("-std=c++20", "-shared", "-fPIC")
_COMPILERS = ("c++", "g++", "clang++")

Pointer = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "dyna_panel": (ctypes.c_int64, []),
    "dyna_open": (Pointer, [Pointer, Pointer]),
    "dyna_close": (None, [Pointer]),
    "dyna_reserve": (ctypes.c_int32, [Pointer, ctypes.c_int64, Pointer, Pointer]),
    "dyna_extend": (ctypes.c_int32, [Pointer, Pointer, Pointer, ctypes.c_int64, ctypes.c_int64]),
    "dyna_keep": (None, [Pointer, Pointer, ctypes.c_int64]),
    "dyna_logits": (Pointer, [Pointer]),
    "dyna_choose": (ctypes.c_int32, [Pointer, ctypes.c_float, ctypes.c_uint64, Pointer]),
    "dyna_top_k": (
        ctypes.c_int32,
        [Pointer, *[ctypes.c_int64] * 2, ctypes.c_float, ctypes.c_uint64, Pointer, Pointer],
    ),
}


@cache
def kernels() -> ctypes.CDLL:
    """Return the compiled functions, after building them where no earlier run did.

    Raises NoKernelsError, also where an earlier call in this process did.
    """
    compiler = _compiler()
    version = _version(compiler)
    key = hashlib.sha256(
        "\n".join([SOURCE.read_text(), version, *_FLAGS, platform.machine(), _processor()]).encode()
    )
    library = _cache_folder() / f"transformer-{key.hexdigest()[:16]}.so"
    kept = library.is_file()
    if not kept:
        _build(compiler, library)
    try:
        loaded = _load(library)
    except NoKernelsError:
        if not kept:
            raise
        _build(compiler, library)  # a disk that failed, or was full, may have left a part of it
        loaded = _load(library)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NoKernelsError(f"the compiled kernels cannot be loaded: {first_line(error)}") from error


def compiler_name() -> str:
    """Return the name and version of the compiler that builds the kernels, in one line.

    Raises NoKernelsError where there is none.
    """
    return _version(_compiler()).partition("\n")[0].strip()


@cache
def _version(compiler: str) -> str:
    return _output([compiler, "--version"])


def _compiler() -> str:
    named = os.environ.get("CXX")
    found = next((path for name in ([named] if named else _COMPILERS) if (path := shutil.which(name))), None)
    if found is None:
        raise NoKernelsError(f"no C++ compiler: {named or ', '.join(_COMPILERS)} not found")
    return found


def _build(compiler: str, library: Path) -> None:
    """Compile into a file of our own and put it into its place in one step: others may do the same.

    It is on the disk before it has its name, so that no power cut leaves an empty library there.
    """
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            _output([compiler, *_FLAGS, *_FLAGS_OF_LIBRARIES, str(SOURCE), "-o", str(built)])
            with built.open("rb") as file:
                os.fsync(file.fileno())
            built.replace(library)
    except OSError as error:  # it may not be written to, or its disk is full
        raise NoFolderError(f"no folder for the kernels at {library.parent}: {first_line(error)}") from error


def _output(command: list[str]) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)  # noqa: S603
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        why = next((line for line in said if "error" in line), said[0])
        raise NoKernelsError(f"{command[0]} failed: {why[:300]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernelsError(f"{command[0]} failed: {first_line(error)}") from error
    return run.stdout


def _cache_folder() -> Path:
    """Return a folder of the user's own: what is loaded from it runs with the user's rights."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # nobody knows the user's home
        raise NoFolderError(f"no folder for the kernels: {first_line(error)}") from error
    folder = base / "dyna-eval"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise NoFolderError(f"no folder for the kernels at {folder}: {first_line(error)}") from error
    return folder


def _processor() -> str:
    """Return the instruction sets of this machine: home folders are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
