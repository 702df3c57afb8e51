"""Second moments of keys at several layers, in one pass over text, cached; ``second_moment`` says what for.

A key is what enters a block's MLP output projection (Meng et al. 2022, appendix E.5). The pass ends at the deepest
layer asked for, the products of each batch's keys are summed on their way into the projection, and texts are short
sequences, so that memory grows neither with the text nor with the model's context. Products over at most 2048 tokens
are float32, which is what the keys are known to; sums of them float64. The text itself is in ``text``.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.hooks import RemovableHandle

from mechmask.errors import ChangeError, one_message
from mechmask.file_errors import file_errors
from mechmask.files import replaced_file
from mechmask.interrupts import atomic_context
from mechmask.models.cache import cache_root, made_once
from mechmask.models.corpora import Corpus
from mechmask.models.fingerprint import digest
from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.models.writable import require_writable
from mechmask.progress import progress_bar
from mechmask.write.moments.second_moment import SecondMoment
from mechmask.write.moments.text import corpus_digest, corpus_of
from mechmask.write.precision import computing_in

__all__ = ["SHRINKAGE", "SecondMoment", "second_moments"]

# Of the mean eigenvalue. Chosen by tests/benchmarks/moments.py: what an update by this C costs keys of other text, as a
# multiple of the least possible, at layer 8 of SmolLM2-135M (4 and 6 are alike). With ten tokens a direction it is 1.60
# for any shrinkage up to 1e-3 and 1.57 at 1e-2; with one token a direction 35 at 1e-6, 13 at 1e-4, 3.4 at 1e-2. More
# would help there too (2.2 at 1e-1), but where a few directions hold most of the trace it would drown the others.
SHRINKAGE = 1e-2
TOKENS_PER_WIDTH = 10  # FastMEMIT finds 2 to 10 tokens for each direction of a key enough, and Llama to need 10

_SCHEMA = 1  # of what is cached
_TOGETHER = 2048  # tokens of one float32 product
_SAVE_SECONDS = 30.0  # between partial sums that are kept: the most that an interrupt loses


def second_moments(
    state: Model | Variant,
    layers: Sequence[int],
    corpus: str | Path | Sequence[str] | None = None,
    *,
    n_tokens: int | None = None,
    shrinkage: float = SHRINKAGE,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """``E[k k^T]`` of the keys of some layers, of a model as it computes now.

    Each layer is cached by itself, under the fingerprint of all that the model computes with and the tokens of the
    text: layers that were asked for before are not computed again. Interrupted, it goes on where it was half a minute
    before, to the same bits.

    Args:
        state: the model or state; a change that is applied counts.
        layers: blocks, 0..L-1.
        corpus: a UTF-8 text file, a list of texts, or ``None``: text that the model samples from itself.
        n_tokens: the most tokens of text; ten for each direction of a key by default. Each sequence's beginning, which
            holds no context, is read and not counted.
        shrinkage: the share of the mean eigenvalue that ``SecondMoment.solve`` adds to every direction.
        seed: draws the sampled text.
        batch_size: sequences that are read together; the result does not depend on it beyond rounding.
        progress: whether bars are shown.

    Returns:
        By layer, in the order asked for. ``n_tokens`` of each says how many tokens there were.

    Raises:
        ChangeError: if arguments are out of bounds, the text is empty, or a key is not finite.
        ReadingError: if the text cannot be read, or the model's output is not finite, so that none can be sampled.
        FileError: if the cache cannot be written.
    """
    with active(state) as model, computing_in(model, "float32"):  # what is cached belongs to the model's own type
        require_writable(model, "A second moment of keys")
        _require_arguments(model, layers, n_tokens, shrinkage, batch_size)
        width = max(_key_width(model, layer) for layer in layers)
        text = corpus_of(model, corpus, TOKENS_PER_WIDTH * width if n_tokens is None else n_tokens, seed, progress)
        if sum(text.lengths) < width:
            warnings.warn(
                f"{sum(text.lengths)} tokens do not span the {width} directions of a key, so most of what an editor "
                f"should spare is not known to it. Give a longer text, and n_tokens of {TOKENS_PER_WIDTH * width}.",
                stacklevel=2,
            )
        names = _made(model, sorted(set(layers)), text, batch_size, progress)
    return {layer: _read(names[layer], layer, shrinkage) for layer in layers}


def _made(model: Model, layers: Sequence[int], text: Corpus, batch_size: int, progress: bool) -> Mapping[int, str]:
    """Where in the cache each layer's second moment is, those made that were not there.

    Locks are taken in the order of layers, so that processes that want some of the same ones wait in turn.
    """
    key = [_SCHEMA, model.fingerprint, corpus_digest(text)]
    names = {layer: f"second-moments/{_hash([*key, layer])}" for layer in layers}
    with ExitStack() as stack:
        directories = {layer: stack.enter_context(made_once(name)) for layer, name in names.items()}
        missing = {layer: directory for layer, directory in directories.items() if directory is not None}
        partial = cache_root() / f"second-moments/{_hash([*key, list(missing), batch_size])}.safetensors"
        if missing:
            sums = KeySums(model, list(missing), partial)
            sums.over(text, batch_size, progress)
            n_tokens = sum(text.lengths)
            for layer, directory in missing.items():
                stored = {"matrix": sums.of[layer].cpu() / n_tokens, "n_tokens": torch.tensor(n_tokens)}
                save_file(stored, directory / "moment.safetensors")
    partial.unlink(missing_ok=True)
    return names


class KeySums:
    """Sums of ``k k^T`` at some layers, as far as a text is read; kept in a file so that an interrupt loses little.

    Args:
        model: the model as it is now.
        layers: blocks, 0..L-1.
        path: of the file; what a run before left there is gone on from.

    Attributes:
        of: the sum of each layer ``[key, key]``, float64.
        n_sequences: of the text, that are summed.
    """

    def __init__(self, model: Model, layers: Sequence[int], path: Path) -> None:
        self._model, self._path, self._last = model, path, max(layers)
        self._nodes = torch.empty(0, dtype=torch.long)
        self.n_sequences = 0
        self.of: dict[int, Tensor] = {}
        for layer in layers:
            device = model.anatomy.mlp_output(layer).weight.device
            device = torch.device("cpu") if device.type == "mps" else device  # where there is no float64
            width = _key_width(model, layer)
            self.of[layer] = torch.zeros(width, width, dtype=torch.float64, device=device)
        self._go_on()

    def over(self, text: Corpus, batch_size: int, progress: bool) -> None:
        """Take in what is not summed yet of a text."""
        n = len(text.sequences)
        done, total = (math.ceil(count / batch_size) for count in (self.n_sequences, n))
        saved = time.monotonic()
        with (
            self._model.evaluation(),
            without_gradients(),
            self._watching(),
            progress_bar("second moments", total, done, shown=progress) as tick,
        ):
            for start in range(self.n_sequences, n, batch_size):
                self._pass(text.part(range(start, min(start + batch_size, n))))
                self.n_sequences = min(start + batch_size, n)
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    self._keep()
                    saved = time.monotonic()
                tick(f"{self.n_sequences} of {n} sequences")

    def _pass(self, part: Corpus) -> None:
        """Run the blocks up to the last layer asked for; padding on the right is seen by no token."""
        rows = [torch.tensor(ids) for ids in part.sequences]
        ids = pad_sequence(rows, batch_first=True).to(self._model.device)
        numbered = torch.arange(ids.numel()).view(ids.shape)
        self._nodes = torch.cat(
            [number[part.n_left_out : len(row)] for number, row in zip(numbered, rows, strict=True)]
        )
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        with suppress(_LastLayerReached):
            self._model.anatomy.decoder(input_ids=ids, position_ids=positions, use_cache=False)

    @atomic_context
    def _watching(self) -> Iterator[None]:
        """Inside, a pass adds its keys, and ends where the last of them are met."""
        hooks: list[RemovableHandle] = []
        try:
            for layer in self.of:
                projection = self._model.module.get_submodule(self._model.anatomy.mlp_output(layer).name)
                hooks.append(projection.register_forward_pre_hook(self._taking(layer)))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _taking(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            keys = args[0].flatten(0, -2)  # OPT's are flat already
            self._add(layer, keys[self._nodes.to(keys.device)])
            if layer == self._last:
                raise _LastLayerReached

        return take

    def _add(self, layer: int, keys: Float[Tensor, "node key"]) -> None:
        for block in keys.float().split(_TOGETHER):
            product = block.T @ block
            if not product.isfinite().all():
                raise ChangeError(
                    f"A key of layer {layer} is not finite. Check the model's weights, or load it in float32."
                )
            self.of[layer] += product.to(self.of[layer].device)

    def _keep(self) -> None:
        tensors = {str(layer): total.cpu() for layer, total in self.of.items()}
        tensors["n_sequences"] = torch.tensor(self.n_sequences)
        with replaced_file(self._path) as temporary:
            save_file(tensors, temporary, {"digest": digest(tensors.items())})

    def _go_on(self) -> None:
        """From what is in the file, unless there is none or it is damaged."""
        try:
            with safe_open(self._path, "pt") as file:
                tensors, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  (no dictionary)
        except (OSError, SafetensorError):
            return
        if said and said.get("digest") == digest(tensors.items()):
            self.n_sequences = int(tensors["n_sequences"])
            for layer, total in self.of.items():
                total.copy_(tensors[str(layer)])


class _LastLayerReached(Exception):  # noqa: N818  (nothing is wrong)
    """Ends a pass."""


def _read(name: str, layer: int, shrinkage: float) -> SecondMoment:
    path = cache_root() / name / "moment.safetensors"
    with file_errors(path, "read"):
        stored = load_file(path)
    return SecondMoment(layer, int(stored["n_tokens"]), stored["matrix"].clone(), shrinkage)  # not the file's pages


def _key_width(model: Model, layer: int) -> int:
    projection = model.anatomy.mlp_output(layer)
    return projection.weight.shape[0 if projection.input_first else 1]


def _require_arguments(
    model: Model, layers: Sequence[int], n_tokens: int | None, shrinkage: float, batch_size: int
) -> None:
    outside = [layer for layer in layers if layer not in range(model.n_layers)]
    problems = [
        *([] if len(layers) else ["No layer is named. Give the blocks whose keys are wanted."]),
        *(f"There is no layer {layer!r}: the model has layers 0 to {model.n_layers - 1}." for layer in outside),
        *([] if n_tokens is None or n_tokens >= 1 else [f"n_tokens is {n_tokens}. Give 1 or more."]),
        *([] if 0 <= shrinkage < math.inf else [f"shrinkage is {shrinkage}. Give 0 or more, such as {SHRINKAGE:g}."]),
        *([] if batch_size >= 1 else [f"batch_size is {batch_size}. Give 1 or more."]),
    ]
    if problems:
        raise ChangeError(one_message("what second moments are asked of", problems))


def _hash(described: Sequence[object]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(described).encode())
