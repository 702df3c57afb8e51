"""``fit_lens``: the ridge lens in closed form, and the tuned lens polished from it by KL divergence.

The ridge lens is a far better start than zero: on SmolLM2-135M it leaves 2.7 nats at layer 10 where the logit lens
leaves 18, so a few dozen steps of Adam suffice. All layers take a step on the same tokens, which share one target.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.measure.reading import SCHEMA_VERSION
from mechmask.measure.statistics import Interval, mean_interval
from mechmask.models.corpora import Corpus, n_sample_batches, sampled_corpus, text_corpus
from mechmask.models.model import Model
from mechmask.progress import progress_bar
from mechmask.read.backends import backend_of
from mechmask.read.lenses.affine import AffineLens, RidgeLens, linear_of
from mechmask.read.lenses.config import LensConfig, lens_config, require_kind
from mechmask.read.lenses.divergence import Readout, Target, plain_unembedding
from mechmask.read.lenses.hash import unembedding_hash
from mechmask.read.lenses.ridge import Moments
from mechmask.read.lenses.stream import Stream
from mechmask.read.lenses.tune import Tuning, carried

_HELD_OUT = 10  # every tenth sequence is held out; a third of those decides when to stop, the rest is reported
_CHECK_EVERY = 10  # steps
_LEVEL = 0.95


def fit_lens(
    model: Model,
    corpus: str | Path | Sequence[str] | None = None,
    *,
    kind: str = "tuned",
    seed: int = 0,
    n_tokens: int = 16384,
    steps: int = 50,
    tokens_per_step: int = 256,
    lr: float = 2e-3,
    patience: int = 2,
    progress: bool = True,
) -> AffineLens:
    """A lens fitted on the model as it is now.

    Args:
        model: the model; an applied change counts.
        corpus: a UTF-8 text file, a list of texts, or ``None``: text that the model samples from itself.
        kind: ``tuned`` (Belrose et al. 2023), a ``tuned_lens.nn.lenses.TunedLens``, or ``ridge``, the closed form that
            it starts from.
        seed: of sampled text, the held-out part and the order of tokens.
        n_tokens: tokens of text, a tenth of them held out.
        steps: of Adam, for each layer.
        tokens_per_step: tokens that a step sees.
        lr: learning rate at the first step; it falls linearly to zero.
        patience: checks, ten steps apart, without a lower held-out KL after which a layer stops.
        progress: whether bars are shown.

    Returns:
        The lens. Its ``report`` holds ``kl[lens, layer]``, the KL divergence from the model's output in nats, of this
        lens, of the ridge lens and of the logit lens, at layers 0..L: mean over held-out sequences that decided
        nothing, with ``kl_low`` and ``kl_high`` of a 95% interval.

    Raises:
        ReadingError: if an argument is out of bounds, the text is too short, tuned-lens is not installed, or the
            model's residuals are not finite.
    """
    config = lens_config(
        seed=seed, n_tokens=n_tokens, steps=steps, tokens_per_step=tokens_per_step, lr=lr, patience=patience
    )
    require_kind(kind)
    fit = Fit(model, corpus, config, progress=progress)
    ridge = fit.ridge()
    if kind == "ridge":
        lens: AffineLens = RidgeLens(ridge, fit.unembed_hash, fit.details(kind))
        lens.report = fit.report({kind: ridge, "logit": None}).assign_attrs(lens.provenance)
        return lens
    from mechmask.read.lenses.tuned import FittedTunedLens

    tuned = fit.tuned(ridge)
    lens = FittedTunedLens(model, tuned, fit.details(kind))
    lens.report = fit.report({kind: tuned, "ridge": ridge, "logit": None}).assign_attrs(lens.provenance)
    return lens


@dataclass(frozen=True)
class HeldOut:
    """Residuals of held-out tokens, the model's output there, and how many tokens of each sequence there are."""

    residuals: Float[Tensor, "layer node width"]
    target: Target
    lengths: tuple[int, ...]


class Fit:
    """Text, residuals and target that the lenses of one model are fitted and judged by.

    Args:
        model: the model.
        corpus: as in ``fit_lens``.
        config: how.
        layers: which layers are tuned and judged; all by default.
        progress: whether bars are shown.

    Raises:
        ReadingError: if the text is too short.
    """

    def __init__(
        self,
        model: Model,
        corpus: str | Path | Sequence[str] | None,
        config: LensConfig,
        *,
        layers: Sequence[int] | None = None,
        progress: bool = True,
    ) -> None:
        self.model, self.config = model, config
        self.layers = list(range(model.n_layers)) if layers is None else list(layers)
        self.readout = Readout(model.anatomy)
        self.unembed_hash = unembedding_hash(plain_unembedding(model.anatomy).weight)
        self._bar = functools.partial(progress_bar, shown=progress)
        self.corpus = self._text(corpus)
        self._generator = torch.Generator().manual_seed(config.seed)
        train, stop, judge = self._split()
        self._backend = backend_of("transformer_lens", model)
        self.train = Stream(self._backend, train)
        self._stop, self.judge = self.held_out(stop), self.held_out(judge)

    def ridge(self) -> nn.ModuleList:
        """The corrections in closed form, layers 0..L-1."""
        moments = Moments()
        with self.model.evaluation(), torch.no_grad(), self._bar("ridge", self.train.n_batches) as tick:
            for residuals in self.train.once():
                moments.add(residuals)
                tick(f"{moments.n} tokens")
        return moments.corrections(self.readout.weight.device)

    def tuned(self, start: nn.ModuleList) -> nn.ModuleList:
        """The corrections that KL divergence asks for, from ``start`` on; each layer's are those of its best check.

        Raises:
            ReadingError: if a KL is not finite.
        """
        steps = self.config.steps
        tuned = {layer: Tuning(layer, linear_of(start, layer), self.config) for layer in self.layers}
        stream = self.train.shuffled(self.config.tokens_per_step, self._generator)
        with self.model.evaluation(), self._bar("tuned lens", steps) as tick:
            self._check(list(tuned.values()), 0)
            for step in range(1, steps + 1):
                running = [tuning for tuning in tuned.values() if not tuning.stopped]
                self._step(running, stream)
                if step % _CHECK_EVERY == 0 or step == steps:
                    self._check(running, step)
                tick(f"KL {np.mean([tuning.best_kl for tuning in tuned.values()]):.3f} nats")
        return nn.ModuleList(tuned[i].best if i in tuned else linear_of(start, i) for i in range(len(start)))

    def held_out(self, corpus: Corpus) -> HeldOut:
        """Residuals and target of a text."""
        with self.model.evaluation(), torch.no_grad():
            residuals = torch.cat(list(Stream(self._backend, corpus).once()), dim=1)
            return HeldOut(residuals, self.readout.target(residuals[-1]), corpus.lengths)

    def kl(self, translators: nn.ModuleList | None, held_out: HeldOut) -> list[Interval]:
        """KL at each of ``layers`` in nats over held-out sequences; ``None`` is the logit lens."""
        found = []
        for layer in self.layers:
            x = held_out.residuals[layer]
            each = self.readout.kl(
                x if translators is None else carried(linear_of(translators, layer), x), held_out.target
            )
            found.append(mean_interval([rows.mean().item() for rows in each.double().split(held_out.lengths)], _LEVEL))
        return found

    def report(self, judged: Mapping[str, nn.ModuleList | None]) -> xr.Dataset:
        """``kl[lens, layer]`` in nats with its interval, of lenses by name, layers as judged and L."""
        with self._bar("report", len(judged)) as tick:
            rows = []
            for name, translators in judged.items():
                rows.append([*self.kl(translators, self.judge), Interval(0.0, 0.0, 0.0, len(self.judge.lengths))])
                tick(name)
        layers = np.array([*self.layers, self.model.n_layers])
        nats = {
            name: (("lens", "layer"), np.maximum(0.0, [[getattr(i, field) for i in row] for row in rows]))
            for name, field in (("kl", "estimate"), ("kl_low", "low"), ("kl_high", "high"))
        }
        report = xr.Dataset(
            nats, {"lens": list(judged), "layer": layers, "depth": ("layer", layers / self.model.n_layers)}
        )
        for name in nats:
            report[name].attrs["units"] = "nats"
        n_tokens = sum(self.judge.lengths)
        return report.assign_attrs(
            schema_version=SCHEMA_VERSION, n_tokens=n_tokens, n_sequences=len(self.judge.lengths), level=_LEVEL
        )

    def details(self, kind: str) -> dict[str, object]:
        """What a lens remembers of its fit, as JSON values."""
        return {
            "kind": kind,
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "corpus": self.corpus.source,
            "n_tokens_used": sum(self.corpus.lengths),
            "config": self.config.model_dump(mode="json"),
            **{f"version_{name}": version(name) for name in ("mechmask", "torch", "transformers")},
        }

    def _text(self, corpus: str | Path | Sequence[str] | None) -> Corpus:
        n_tokens = self.config.n_tokens
        if corpus is not None:
            return text_corpus(self.model, corpus, n_tokens)
        with self._bar("sampling", n_sample_batches(n_tokens)) as tick:
            return sampled_corpus(self.model, self.readout.logits, n_tokens, self.config.seed, tick)

    def _split(self) -> tuple[Corpus, Corpus, Corpus]:
        """What is trained on, what decides when to stop, what is reported."""
        order = torch.randperm(len(self.corpus.sequences), generator=self._generator).tolist()
        n_held = max(2, len(order) // _HELD_OUT)
        n_stop = max(1, n_held // 3)
        held, train = order[:n_held], self.corpus.part(order[n_held:])
        n, needed = sum(train.lengths), self.config.tokens_per_step
        if n < needed:
            raise ReadingError(
                f"The corpus leaves {n} tokens to fit a lens on, fewer than the {needed} of one step. Give more text, "
                "or a smaller tokens_per_step."
            )
        return train, self.corpus.part(held[:n_stop]), self.corpus.part(held[n_stop:])

    def _step(self, running: list[Tuning], stream: Iterator[Tensor]) -> None:
        if not running:
            return
        with torch.no_grad():
            residuals = next(stream)
        target = self.readout.target(residuals[-1])
        for tuning in running:
            tuning.step(self.readout, residuals[tuning.layer], target)

    def _check(self, running: list[Tuning], step: int) -> None:
        for tuning in running:
            tuned = carried(tuning.linear, self._stop.residuals[tuning.layer])
            kl = self.readout.kl(tuned, self._stop.target).double().mean().item()
            if kl != kl:
                raise ReadingError(
                    f"The lens at layer {tuning.layer} gives NaN at step {step}. Lower lr, or check the weights."
                )
            tuning.checked(kl)
