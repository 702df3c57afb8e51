"""Libraries that load a model say much that is not for the user: bars of half a second, deprecations of their own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No bars, no log below an error, no warnings of transformers and peft; the user's settings come back."""
    bars, verbosity, reader_bar = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
        gguf_reader.tqdm,
    )
    try:
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        gguf_reader.tqdm = partial(reader_bar, disable=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gguf_reader.tqdm = reader_bar
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
