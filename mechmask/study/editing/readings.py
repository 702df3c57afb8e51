"""What is read of a model as it came and after every edit: by which rulers, in which files of a step.

``output``, ``depth`` and the verdict that follows from them are mechmask's own rulers; ``editing`` (ES, PS, NS),
``generations`` (GE) and ``text`` (what the edit costs running text) are those of the editing field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.measure.reading import save_reading
from mechmask.models.corpora import Corpus
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.models.states import Variant
from mechmask.read.depth import read_depth
from mechmask.read.divergence import read_divergence
from mechmask.read.editing import Sheet, read_editing
from mechmask.read.generations import read_generations
from mechmask.read.logits import read_logits
from mechmask.read.text import held_out_text
from mechmask.study.editing.config import OF_THE_MODEL, EditingConfig
from mechmask.study.lenses import FittedLens, fitted_lens
from mechmask.study.run import Run
from mechmask.study.step import Settings, digest_of


@dataclass(frozen=True)
class Rulers:
    """Everything that a state is read by.

    Attributes:
        config: of the study.
        lens: of the depth readings.
        text: on which drift is read; ``None`` for none.
    """

    config: EditingConfig
    lens: FittedLens
    text: Corpus | None

    @classmethod
    def of(cls, run: Run, config: EditingConfig) -> Rulers:
        """The rulers of a run.

        Args:
            run: whose model cuts or samples the text.
            config: of the study.

        Raises:
            ReadingError: if there is no such lens, or the text cannot be read.
        """
        text = None
        if config.text is not None:
            source = None if config.text == OF_THE_MODEL else config.text
            text = held_out_text(run.model, source, n_tokens=config.text_tokens, seed=config.seed)
        return cls(config, fitted_lens(run, config.lens), text)

    @property
    def settings(self) -> Settings:
        """What a reading depends on, as settings of a step."""
        whole = self.config.model_dump(mode="json", include={"lens", "backend", "generation", "n_tokens", "seed"})
        return Settings(whole, whole)

    @property
    def inputs(self) -> dict[str, str]:
        """What else it depends on, by name."""
        text = {} if self.text is None else {"text": digest_of([self.text.n_left_out, self.text.sequences])}
        return {"lens": self.lens.lens.name, **self.lens.inputs, **text}

    def read(self, state: Model | Variant, judged: FactSet, rest: FactSet) -> dict[str, xr.Dataset]:
        """Every ruler but that of running text.

        Args:
            state: the model as it came, or after an edit.
            judged: the facts that were, or will be, edited.
            rest: what no edit changes, and the verdict is held against.

        Returns:
            ``output`` (``read_logits`` of all facts and phrasings), and of the judged facts ``depth``, ``editing`` and
            ``generations``.

        Raises:
            ReadingError: if a reading disagrees with the model's own output.
        """
        c = self.config
        read = {
            "output": read_logits(state, judged + rest, phrasings="all", batch_size=c.batch_size),
            "depth": read_depth(
                state, judged, self.lens.lens, backend=c.backend, phrasings="all", batch_size=c.batch_size
            ),
            **self.read_answers(state, judged),
        }
        if c.generation:
            read["generations"] = read_generations(state, judged, n_tokens=c.n_tokens, seed=c.seed)
        return read

    def read_answers(self, state: Model | Variant, judged: FactSet) -> dict[str, xr.Dataset]:
        """The editing field's own reading alone.

        Args:
            state: the model as it came, or after edits.
            judged: the facts that are, or will be, edited.

        Raises:
            ReadingError: if the reading disagrees with the model's own output.
        """
        return {"editing": read_editing(state, judged, batch_size=self.config.batch_size)}

    def drift(self, start: Model | Variant, state: Model | Variant) -> dict[str, xr.Dataset]:
        """What an edit cost running text: ``text`` (``read_divergence``), where there is a text.

        Args:
            start: before the edit.
            state: after it.

        Raises:
            ReadingError: if an output is not finite.
        """
        if self.text is None:
            return {}
        return {"text": read_divergence(start, state, self.text, batch_size=self.config.batch_size)}


def save_all(readings: Mapping[str, xr.Dataset], directory: Path) -> None:
    """Every reading as a file of its name.

    Args:
        readings: by name.
        directory: of the step.
    """
    for name, reading in readings.items():
        save_reading(reading, directory / f"{name}.nc")


def require_asked(model: Model, facts: FactSet) -> None:
    """Refuse facts that cannot be read under some phrasing, or after some prompt of the editing field.

    Args:
        model: whose tokenizer makes the tokens.
        facts: the facts.

    Raises:
        RouteError: listing every fact, or every prompt, that is refused.
        ReadingError: if an implication is of a kind that other prompts have.
    """
    for phrasing in range(max(len(fact.phrasings) for fact in facts)):
        encode_contests(model.tokenizer, facts, phrasing)
    Sheet.of(facts.contradicted or facts).contests(model)


def can_be_asked(model: Model, fact: Fact) -> bool:
    """Whether a fact can be read under all its phrasings and after every prompt that an edit is judged by.

    Args:
        model: whose tokenizer makes the tokens.
        fact: the fact.
    """
    try:
        require_asked(model, FactSet([fact]))
    except (ReadingError, ValueError):
        return False
    return True
