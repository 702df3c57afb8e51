"""A GGUF file as a directory of safetensors and tokenizer, converted once and kept in the cache.

transformers dequantises GGUF in some twenty seconds for SmolLM2-135M; the converted directory loads in less than one.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from mechmask.errors import ModelError
from mechmask.models.cache import cache_root, made_once


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def converted(path: Path) -> Path:
    """The cached directory that holds the model of a GGUF file, keyed by the file's content."""
    name = f"gguf-{sha256_of(path)[:16]}"
    with made_once(name) as directory:
        if directory is not None:
            convert(path, directory)
    return cache_root() / name


def convert(path: Path, directory: Path) -> None:
    """Write the model of a GGUF file into ``directory`` as float32 safetensors, with its tokenizer.

    Raises:
        ModelError: if transformers cannot read the file.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from mechmask.models.quiet import quiet_libraries

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            config = AutoConfig.from_pretrained(**where)
            dequantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError, struct.error) as error:
        raise ModelError(
            f"{path.name} is not a GGUF file that transformers can read ({_first_line(error)}). Convert it with "
            "another tool."
        ) from error
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    with quiet_libraries():
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(dequantised.state_dict())
        plain.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
