"""What a mask study does, as a frozen configuration: every default stands here, and in the card of every study."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from mechmask.configuration import NONE_BY_NAME, Configuration
from mechmask.errors import StudyError, known_names
from mechmask.measure.erase import PAPER_CUTOFF_NATS
from mechmask.measure.old_value import StatisticName
from mechmask.measure.trace import STATISTIC
from mechmask.measure.verdict import ALPHA, MARGIN_SHARE
from mechmask.read.backends import BackendName
from mechmask.read.lenses.lens import LensName
from mechmask.study.until import Until
from mechmask.write.edit import METHODS, EditConfig
from mechmask.write.finetune import FinetuneConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"there is no edit method {name!r}. {known_names(name, METHODS)}")
    return name


Editor = Annotated[
    Annotated[str, AfterValidator(_known_method), Tag("name")] | Annotated[EditConfig, Tag("settings")],
    Discriminator(lambda given: "name" if isinstance(given, str) else "settings"),
]


class VerdictConfig(Configuration):
    """How a correction is read and judged.

    Attributes:
        statistic: of the old value, of which the trace is made.
        margin_share: the margin of the verdict, as a share of the trace before.
        alpha: the rate at which each verdict may be wrong.
        cutoff_nats: erase index above which the paper's criterion says erased.
        level: of the intervals of means.
        batch_size: prompts per forward pass when reading; affects memory only.
    """

    statistic: StatisticName = STATISTIC
    margin_share: float = Field(default=MARGIN_SHARE, gt=0, lt=1)
    alpha: float = Field(default=ALPHA, gt=0, lt=0.5)
    cutoff_nats: float = Field(default=PAPER_CUTOFF_NATS, gt=0)
    level: float = Field(default=0.95, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)

    @property
    def options(self) -> dict[str, Any]:
        """What ``erase_index`` is called with."""
        return self.model_dump(include={"statistic", "margin_share", "alpha", "cutoff_nats", "level"})


class StudyConfig(VerdictConfig):
    """Install, contradict, edit, read.

    Attributes:
        install: how the old values are taught; ``None`` (``"none"`` in TOML) for facts that the model holds already.
        install_recall: installing ends at the first checkpoint at which this share of the taught facts is recalled.
        contradict: how the new values are taught, from the installed adapter on, and for how many steps at most.
        contradict_until: contradicting ends at the first checkpoint at which new is recalled or leads by so much, such
            as ``{ margin = 1.0 }`` or ``{ recall = 1.0 }``; after all steps (``"none"`` in TOML) by default.
        taught_phrasings: in how many of its phrasings each fact is installed and contradicted, the prompt first; the
            others are only read, as what carries over. The paper teaches one.
        checkpoint_every: optimizer steps between two readings.
        edits: editors that change each contradicted fact alone, beside the fine-tuning: configurations with their
            ``method``, or names of methods, of which the preset for the model's family and size is taken. Empty for
            none.
        score: of the readings at the output.
        lens: of the depth readings.
        backend: of the depth readings.
    """

    former: ClassVar[Mapping[str, str]] = {
        "edit": (
            'It is now edits, a list: edits = ["ft_l"] takes the preset, a table [[study.edits]] with method = "ft_l" '
            "holds an editor's own settings, and edits = [] stands for none."
        )
    }

    install: Annotated[FinetuneConfig | None, NONE_BY_NAME] = FinetuneConfig(steps=60)
    install_recall: float = Field(default=1.0, gt=0, le=1)
    contradict: FinetuneConfig = FinetuneConfig(steps=30)
    contradict_until: Annotated[Until | None, NONE_BY_NAME] = None
    taught_phrasings: int = Field(default=1, ge=1)
    checkpoint_every: int = Field(default=10, ge=1)
    edits: tuple[Editor, ...] = ("ft_l",)
    score: Literal["sequence", "mean"] = "sequence"
    lens: LensName = "logit"
    backend: BackendName = "transformer_lens"


class JudgedConfig(VerdictConfig):
    """How a correction is read on its way, edited beside, and judged.

    Attributes:
        checkpoint_every: optimizer steps of the correction between two readings.
        edits: editors that change each contradicted fact alone: configurations with their ``method``, or names of
            methods, of which the preset for the model is taken.
    """

    checkpoint_every: int = Field(default=5, ge=1)
    edits: tuple[Editor, ...] = ()


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary.

    Raises:
        StudyError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except RecursionError as error:
        raise StudyError(f"{path.name} is nested too deeply to be a configuration. Fix it.") from error
    except ValueError as error:  # not UTF-8, not TOML, a number of thousands of digits
        raise StudyError(f"{path.name} is not TOML ({error}). Fix it.") from error
