"""``train_malmen``: hypernetworks that learn to edit a model (MALMEN, Tan et al. 2024, section 4).

A step draws facts, edits them all at once, and looks at the edited model: it is to say the new values after other
phrasings, and to say what it said before where no fact was edited. These losses are taken to the edited weights alone;
from there the way back is by hand through the ridge, then through the networks a chunk at a time, so that autograd
never records more than a few facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import kl_div

from mechmask.configuration import Configuration, Layers, LearningRate
from mechmask.errors import ChangeError
from mechmask.facts.fact import Example
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.gradients import recording, with_gradients, without_gradients
from mechmask.models.model import Model
from mechmask.models.replay import Replay
from mechmask.models.routes import EncodedExample, encode_examples
from mechmask.models.states import Variant, active
from mechmask.models.writable import require_writable
from mechmask.progress import progress_bar
from mechmask.write.editor import Facts
from mechmask.write.low_rank import writing
from mechmask.write.malmen.answers import AnswerSignals, answer_signals, micro_batches, require_finite
from mechmask.write.malmen.networks import Hypernetworks, hypernetworks_for
from mechmask.write.objective import Targets, target_nll
from mechmask.write.precision import computing_in
from mechmask.write.weights import trainable


class MALMENTrainingConfig(Configuration):
    """How hypernetworks are trained; defaults are the published ones for zsRE.

    Attributes:
        layers: the blocks whose MLP output projections will be written into, 0..L-1, in order; published are the last
            six: 6 to 11 of GPT-2, 22 to 27 of GPT-J.
        rank: of the products in a network.
        n_blocks: residual blocks of a network.
        n_edits: facts of a step, which are edited together.
        n_steps: optimizer steps; by default as many as the facts allow when each is drawn once at most.
        lr: learning rate of Adam.
        start_lr: eta of every map at the start.
        start_ridge: ridge of every map at the start.
        locality_weight: what the divergence where nothing was edited counts beside the loss of the new values.
        max_grad_norm: the norm to which the gradient of all networks together is clipped.
        micro_batch: examples that the model reads together; affects memory only.
        seed: of the networks' first factors, and of what is drawn in each step.
    """

    refusal = ChangeError

    layers: Layers
    rank: int = Field(default=1920, ge=1)
    n_blocks: int = Field(default=2, ge=1)
    n_edits: int = Field(default=512, ge=1)
    n_steps: int | None = Field(default=None, ge=1)
    lr: LearningRate = 1e-5
    start_lr: LearningRate = 1e-6
    start_ridge: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    locality_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    micro_batch: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)


class StepExamples(NamedTuple):
    """What a step takes.

    Attributes:
        edited: the prompts of its facts, with the new values.
        equivalent: another phrasing of each, with the new value; the prompt itself where a fact has no other.
        local: for each a prompt about something else, with a value.
    """

    edited: list[EncodedExample]
    equivalent: list[EncodedExample]
    local: list[EncodedExample]


class StepLosses(NamedTuple):
    """How a step's edit did, mean over tokens, in nats.

    Attributes:
        equivalence: of the new values after other phrasings, in the edited model.
        locality: KL divergence of the edited model from the one before, where nothing was edited.
    """

    equivalence: float
    locality: float


def train_malmen(
    model: Model | Variant, facts: Facts, config: MALMENTrainingConfig, *, progress: bool = True
) -> Hypernetworks:
    """Train the networks by which MALMEN edits a model; the model is left as it was.

    Every fact that is edited later should be another one than those trained on, and of their kind. Statistics of keys
    and gradients are gathered here and stand from then on; published code goes on gathering them when it validates and
    edits. Losses are means over the tokens of a step, where the published ones depend on how many are read together.

    Args:
        model: the model, or a state of it; the networks belong to it.
        facts: what is edited in training, in any form that ``as_fact_set`` takes, with paraphrases and, where there
            are some, neighbors; for a fact without any, another fact's prompt with its old value has to stay.
        config: how.
        progress: whether a bar shows how far it is.

    Returns:
        The networks; ``save`` them for ``MALMENConfig(hypernetwork=directory)``. ``training`` says how each step did.

    Raises:
        ChangeError: if there is no such block, there are fewer facts than a step takes, no fact has a paraphrase, or a
            loss or gradient is not a number; the message names step and facts.
        FactError: if the facts cannot be used together.
        RouteError: if a value merges with its prompt, or is longer than the model reads.
    """
    chosen = as_fact_set(facts)
    with recording(), active(model) as now, computing_in(now, "float32"):
        require_writable(now, "Training MALMEN")
        lessons = _Lessons(now, chosen, config)
        networks = hypernetworks_for(
            now, config.layers, rank=config.rank, n_blocks=config.n_blocks, lr=config.start_lr, ridge=config.start_ridge
        )
        networks.draw(config.seed)
        networks.to("cpu" if now.device.type == "mps" else now.device)  # the former has no float64
        optimizer = torch.optim.Adam(networks.parameters(), lr=config.lr)
        n_steps = config.n_steps or lessons.per_epoch
        losses = []
        with (
            trainable(now, edited_weights(now, config.layers)),
            progress_bar("MALMEN", n_steps, shown=progress) as tick,
        ):
            for step in range(n_steps):
                losses.append(_step(now, networks, optimizer, lessons.of(step), config, f"step {step + 1} of MALMEN"))
                tick(f"paraphrases {losses[-1].equivalence:.3f}, elsewhere {losses[-1].locality:.3f} nats")
    networks.to("cpu")
    networks.training = {
        "config": config.model_dump(mode="json"),
        "n_facts": len(chosen),
        "steps": n_steps,
        "equivalence_nats": [loss.equivalence for loss in losses],
        "locality_nats": [loss.locality for loss in losses],
    }
    return networks


def add_gradients(
    model: Model,
    networks: Hypernetworks,
    signals: AnswerSignals,
    examples: StepExamples,
    config: MALMENTrainingConfig,
    where: str,
) -> StepLosses:
    """Edit, and add to the networks' gradients what the edited model's losses ask for.

    The edited weights ask for gradients (``trainable``); they are as they were afterwards.

    Args:
        model: the model as it is now.
        networks: what makes the edit.
        signals: of the facts that are edited.
        examples: what the edited model is asked.
        config: how.
        where: what is at work, to end a message.

    Raises:
        ChangeError: if a loss or gradient is not a number.
    """
    updates = {layer: networks.update(layer, signals) for layer in networks.layers}
    names = {layer: f"{model.anatomy.mlp_output(layer).name}.weight" for layer in networks.layers}
    kept = [
        _Kept(model, asked, networks.layers[0]) for asked in micro_batches(model, examples.local, config.micro_batch)
    ]
    weights = edited_weights(model, networks.layers)
    totals = {name: torch.zeros_like(weight, dtype=_accurate(weight)) for name, weight in weights.items()}
    n_equivalent, n_local = (sum(len(e.value) for e in of) for of in (examples.equivalent, examples.local))
    equivalence = locality = 0.0

    def take(each: Float[Tensor, " target"], asked: Targets, share: float) -> float:
        require_finite(each, asked, where)
        found = torch.autograd.grad(each.sum() * share, list(weights.values()))
        for total, gradient in zip(totals.values(), found, strict=True):
            total += gradient
        return each.detach().double().sum().item()

    with writing(model, names.values()) as add, with_gradients():
        for layer, name in names.items():
            add(name, updates[layer].factors)
        for asked in micro_batches(model, examples.equivalent, config.micro_batch):
            equivalence += take(target_nll(model, asked), asked, 1 / n_equivalent)
        for one in kept:
            locality += take(one.divergence(), one.asked, config.locality_weight / n_local)
    for layer, name in names.items():
        is_row = model.anatomy.mlp_output(layer).input_first
        networks.backward(layer, signals, updates[layer], totals[name] if is_row else totals[name].mT)
    return StepLosses(equivalence / n_equivalent, locality / n_local)


def edited_weights(model: Model, layers: Sequence[int]) -> dict[str, nn.Parameter]:
    """The weights of the MLP output projections of some blocks by name.

    Args:
        model: the model.
        layers: the blocks, 0..L-1.
    """
    projections = [model.anatomy.mlp_output(layer) for layer in layers]
    return {f"{projection.name}.weight": projection.weight for projection in projections}


def _step(
    model: Model,
    networks: Hypernetworks,
    optimizer: torch.optim.Optimizer,
    examples: StepExamples,
    config: MALMENTrainingConfig,
    where: str,
) -> StepLosses:
    signals = answer_signals(model, examples.edited, config.layers, config.micro_batch, where)
    networks.observe(signals)
    optimizer.zero_grad()
    try:
        losses = add_gradients(model, networks, signals, examples, config, where)
    except ChangeError as error:  # an update that is not finite, or leaves the range of the weights
        raise error if where in str(error) else ChangeError(f"In {where}, on {_names(examples)}: {error}") from error
    norm = nn.utils.clip_grad_norm_(networks.parameters(), config.max_grad_norm)
    if not norm.isfinite():
        raise ChangeError(
            f"The gradient of the networks is not a number in {where}, on {_names(examples)}. Lower lr or start_lr, or "
            "load the model in float32."
        )
    optimizer.step()
    return losses


class _Kept:
    """Prompts that no edit should touch, with what the model says there before: only what lies above is read again."""

    def __init__(self, model: Model, asked: Targets, first: int) -> None:
        self._model, self._first, self.asked = model, first, asked
        self._replay = Replay(model, asked.batch.inputs(model.device, model.dtype), first)
        with without_gradients():
            self._before = self._normed(self._replay.residual(model.n_layers))

    def divergence(self) -> Float[Tensor, " target"]:
        """KL divergence of the model of now from the one before, at each token, in nats."""
        residual = self._replay.from_layer(self._first, self._replay.residual(self._first))
        before, after = self._logprobs(self._before), self._logprobs(self._normed(residual))
        return kl_div(after, before, log_target=True, reduction="none").sum(-1)

    def _normed(self, residual: Float[Tensor, "row position width"]) -> Float[Tensor, "target width"]:
        rows, columns = self.asked.rows.to(residual.device), self.asked.columns.to(residual.device)
        return self._model.anatomy.final_norm(residual[rows, columns])

    def _logprobs(self, normed: Float[Tensor, "target width"]) -> Float[Tensor, "target vocabulary"]:
        anatomy = self._model.anatomy
        return anatomy.given_out(anatomy.unembedding(normed).float()).log_softmax(-1)


class _Lesson(NamedTuple):
    """A fact as examples: what is edited, what else should be said, what should stay, and what others may keep."""

    edited: EncodedExample
    equivalents: list[EncodedExample]
    neighbors: list[EncodedExample]
    elsewhere: EncodedExample


class _Lessons:
    """The examples of every step, drawn from the seed and the step alone."""

    def __init__(self, model: Model, facts: FactSet, config: MALMENTrainingConfig) -> None:
        self._facts, self._config = self._encoded(model, facts), config
        self._require_enough()
        self.per_epoch = len(self._facts) // config.n_edits

    def of(self, step: int) -> StepExamples:
        """The examples of a step; each fact is drawn once before any is drawn again, a remainder is left out."""
        size, seed = self._config.n_edits, self._config.seed
        epoch, position = divmod(step, self.per_epoch)
        order = np.random.default_rng([seed, 0, epoch]).permutation(len(self._facts)).tolist()
        here = order[position * size : (position + 1) * size]
        others = [i for i in order if i not in set(here)]
        draw = np.random.default_rng([seed, 1, step])
        drawn = [self._facts[i] for i in here]
        return StepExamples(
            [lesson.edited for lesson in drawn],
            [_one_of(draw, lesson.equivalents) for lesson in drawn],
            [_one_of(draw, lesson.neighbors or [self._facts[i].elsewhere for i in others]) for lesson in drawn],
        )

    @staticmethod
    def _encoded(model: Model, facts: FactSet) -> list[_Lesson]:
        examples: list[Example] = []
        for f in facts:
            examples += [f.example(text, f.new) for text in f.phrasings]
            examples += [f.example(n.prompt, n.value) for n in f.neighbors]
            examples.append(f.example(f.prompt, f.old))
        made = iter(encode_examples(model.tokenizer, examples))
        lessons = []
        for f in facts:
            edited, *others = [next(made) for _ in f.phrasings]
            lessons.append(_Lesson(edited, others or [edited], [next(made) for _ in f.neighbors], next(made)))
        return lessons

    def _require_enough(self) -> None:
        n, size = len(self._facts), self._config.n_edits
        if n < size:
            raise ChangeError(f"A step edits {size} facts and there are {n}. Give more facts, or a smaller n_edits.")
        if all(lesson.equivalents == [lesson.edited] for lesson in self._facts):
            raise ChangeError(
                "No fact has a paraphrase, so nothing teaches the networks to write a fact rather than a text. Give "
                "facts with paraphrases."
            )
        if n == size and not all(lesson.neighbors for lesson in self._facts):
            raise ChangeError(
                f"A step edits all {n} facts, and some have no neighbors, so there is no prompt that should stay as it "
                "is. Give neighbors, or a smaller n_edits."
            )


def _one_of(draw: np.random.Generator, choices: Sequence[EncodedExample]) -> EncodedExample:
    return choices[int(draw.integers(len(choices)))]


def _names(examples: StepExamples) -> str:
    names = [repr(example.fact_id) for example in examples.edited]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _accurate(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
