"""What editors of keys and values have in common: contexts, second moments, and where they write.

``RankOneEditor`` (ROME and its kin) and ``SpreadEditor`` (MEMIT and its kin) stand on it.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, TypeVar

from pydantic import Field

from mechmask.configuration import Layers
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.write.editor import Editor, require_layers, require_plain_projections
from mechmask.write.moments.estimate import SecondMoment, second_moments
from mechmask.write.values import ValueConfig


class KeyedConfig(ValueConfig):
    """Where an editor of keys and values writes, and what it reads first; see ``ValueConfig`` for how it seeks values.

    Attributes:
        layers: the blocks whose MLP output projections are written into, 0..L-1, in order.
        seed: of contexts, and of text that the model samples from itself.
        corpus: text whose keys shall keep their values: the path of a text file, or texts; by default text that the
            model samples from itself.
        moment_tokens: tokens of that text; 10 times the width of a key by default.
    """

    layers: Layers
    seed: int = 0
    corpus: str | tuple[str, ...] | None = None
    moment_tokens: int | None = Field(default=None, ge=1)


Config = TypeVar("Config", bound=KeyedConfig)


class KeyedEditor(Editor[Config]):
    """An editor that writes values at keys into MLP output projections.

    Args:
        state: the model as it is now, or a state of it; it is left as it was. Contexts and second moments are those of
            this state, also for later edits.
        config: how it edits.

    Attributes:
        contexts: what a prompt is read behind, besides alone.

    Raises:
        ChangeError: if there is no such layer, or an adapter on one does more than add to what its weight gives out.
    """

    def __init__(self, state: Model | Variant, config: Config) -> None:
        super().__init__(state, config)
        require_layers(state, config.layers)
        with active(state) as model:
            require_plain_projections(model, config.layers)
            self._read_of = model.fingerprint
            self.contexts = self._contexts(model)

    @cached_property
    def moments(self) -> dict[int, SecondMoment]:
        """The second moment of the keys of text in each layer that is written into, of the state that was given."""
        c = self.config
        with active(self.start) as model:
            self._require_as_prepared(model)
        return second_moments(self.start, c.layers, c.corpus, n_tokens=c.moment_tokens, seed=c.seed)

    def get_ready(self) -> None:
        """Make the second moments, where the settings ask for them."""
        if self._needs_moments:
            self.moments  # noqa: B018  (made once, of the state that was given)

    @property
    def _needs_moments(self) -> bool:
        return True

    def _moment_details(self) -> dict[str, Any]:
        """What the second moments of every layer rest on, as JSON values; nothing where there are none."""
        if not self._needs_moments:
            return {}
        return {
            "moment_tokens": {str(layer): moment.n_tokens for layer, moment in self.moments.items()},
            "moment_shrinkage": {str(layer): moment.shrinkage for layer, moment in self.moments.items()},
        }

    @abstractmethod
    def _contexts(self, model: Model) -> tuple[str, ...]:
        """What prompts are read behind."""

    def _weight(self, model: Model, layer: int) -> str:
        """The name of the weight that is written into."""
        return f"{model.anatomy.mlp_output(layer).name}.weight"
