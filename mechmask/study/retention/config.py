"""What a retention study does, as a frozen configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from mechmask.errors import known_names
from mechmask.study.config import Editor, VerdictConfig
from mechmask.study.retention.tasks import LaterTask
from mechmask.write.edit import METHODS

TOGETHER = {"memit": 10, "emmet": 10, "alphaedit": 10, "malmen": 10}


class RetentionConfig(VerdictConfig):
    """Edit, fine-tune on something else, and read what is left of the edits.

    Attributes:
        edits: the editors: configurations with their ``method``, or names of methods, of which the preset for the model
            is taken; at least one.
        tasks: what the edited models are fine-tuned on, each from the edits on; at least one, each with a name of its
            own.
        together: how many facts a method edits at once, in one model that is then fine-tuned; one, where a method is
            not named.
    """

    edits: tuple[Editor, ...] = Field(default=("rome", "memit"), min_length=1)
    tasks: tuple[LaterTask, ...] = ()
    together: Mapping[str, Annotated[int, Field(ge=1)]] = TOGETHER

    @field_validator("tasks")
    @classmethod
    def _named_apart(cls, tasks: tuple[LaterTask, ...]) -> tuple[LaterTask, ...]:
        labels = [task.label for task in tasks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"several tasks are called {twice[0]!r}. Give each a name of its own")
        return tasks

    @field_validator("together")
    @classmethod
    def _of_methods(cls, together: Mapping[str, int]) -> Mapping[str, int]:
        for name in together:
            if name not in METHODS:
                raise ValueError(f"there is no edit method {name!r}. {known_names(name, METHODS)}")
        return together
