"""Configurations and records: frozen pydantic classes that refuse in mechmask's sentences.

What pydantic refuses is put into words here, so that neither its own text nor a link to its pages reaches a reader.
Every unusable field of a call is named in one error, whose class each configuration chooses.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from typing_extensions import Self

from mechmask.errors import MechmaskError, StudyError, known_names, one_message

Checked = TypeVar("Checked", bound=BaseModel)
Problems = Callable[[str, type[BaseModel], ValidationError], list[str]]

NONE_BY_NAME = BeforeValidator(lambda given: None if given == "none" else given)
"""Of a field that may be ``None``: TOML has no null, and says ``"none"``."""


def _in_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    if any(layer < 0 for layer in layers) or list(layers) != sorted(set(layers)):
        raise ValueError("blocks are numbered from 0 on. Name each once, in order")
    return layers


Layers = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_in_order)]
"""Blocks of a model, at least one."""

LearningRate = Annotated[float, Field(gt=0, lt=3e37, allow_inf_nan=False)]
"""Of Adam, whose first step is ten times it before it is scaled: beyond, that overflows in float32."""


def key_problems(where: str, kind: type[BaseModel], error: ValidationError) -> list[str]:
    """What pydantic refused, one sentence a key.

    Args:
        where: what the sentence is about, such as a file's name.
        kind: the class that was asked for; its keys are listed where one is not known.
        error: what pydantic raised.
    """
    return [f"{where}: {_problem(kind, details)}" for details in error.errors(include_url=False)]


def validated(kind: type[Checked], data: object, where: str, refusal: type[MechmaskError] = StudyError) -> Checked:
    """``data`` as an instance of ``kind``.

    Args:
        kind: the class that is asked for.
        data: a mapping of its keys, as a file holds it.
        where: what the sentences are about, such as the file's name.
        refusal: the class of the error.

    Raises:
        MechmaskError: of class ``refusal``, listing every key that is not usable.
    """
    try:
        return kind.__pydantic_validator__.validate_python(data)
    except ValidationError as error:
        raise refusal(one_message(where, key_problems(where, kind, error))) from None


class InSentences(type(BaseModel)):
    """Makes a class's constructor raise ``refusal``; type checkers go on seeing the fields as parameters."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **fields: Any) -> Any:
            """An instance, or the class's own error."""
            with _refused(cls):
                return super().__call__(*args, **fields)


class Refusing(BaseModel, metaclass=InSentences):
    """A frozen class without unknown fields.

    Attributes:
        refusal: the class of the error that its constructor raises.
        in_words: puts into sentences what pydantic refused.
        former: fields that are no more, each with the sentence that says what to write instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refusal: ClassVar[type[MechmaskError]] = StudyError
    in_words: ClassVar[Problems] = staticmethod(key_problems)
    former: ClassVar[Mapping[str, str]] = {}

    def __dir__(self) -> list[str]:
        """The fields and methods of the class, and of pydantic's only those that make copies."""
        inherited = set(dir(Refusing))
        defined = {name for name in dir(type(self)) if name not in inherited and not name.startswith("_")}
        return sorted({*defined, *type(self).model_fields, "model_copy", "model_dump", "model_dump_json"})


class Configuration(Refusing):
    """How something is done: made in whatever way, what cannot be used is refused in sentences."""

    if not TYPE_CHECKING:

        @classmethod
        def model_validate(cls, *args: Any, **options: Any) -> Self:
            """As pydantic's, with errors in sentences.

            Args:
                args: as pydantic's.
                options: as pydantic's.
            """
            with _refused(cls):
                return super().model_validate(*args, **options)

        @classmethod
        def model_validate_json(cls, *args: Any, **options: Any) -> Self:
            """As pydantic's, with errors in sentences.

            Args:
                args: as pydantic's.
                options: as pydantic's.
            """
            with _refused(cls):
                return super().model_validate_json(*args, **options)

        def __setattr__(self, name: str, value: Any) -> None:
            with _refused(type(self)):
                super().__setattr__(name, value)


class _refused:  # noqa: N801  a context, as those of contextlib; a generator's would show in every traceback
    """Raise what pydantic refuses in the block as the class's own error."""

    def __init__(self, kind: type[Refusing]) -> None:
        self._kind = kind

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ValidationError):
            kind = self._kind
            raise kind.refusal(
                one_message(f"this {kind.__name__}", kind.in_words(kind.__name__, kind, error))
            ) from None


def _problem(kind: type[BaseModel], details: Mapping[str, Any]) -> str:
    reason, context = details["type"], details.get("ctx", {})
    name, here = _place(kind, details["loc"], extra=reason == "extra_forbidden")
    given = f"{name or 'the whole'} cannot be {reprlib.repr(details['input'])}"
    if reason == "extra_forbidden":
        key = str(details["loc"][-1])
        instead = next((h.former[key] for h in here if issubclass(h, Refusing) and key in h.former), "")
        known = list(dict.fromkeys(field for h in here for field in h.model_fields))
        return f"the setting {name!r} is not known. {instead or known_names(key, known)}"
    if reason == "missing":
        return f"the setting {name!r} is missing. Give it."
    if reason == "frozen_instance":
        return f"{name} cannot be set: a {kind.__name__} is frozen. Make a new one with the value that you want."
    if reason == "union_tag_invalid":
        return f"{name}: there is no {context['discriminator'].strip(chr(39))} {context['tag']!r}. " + known_names(
            context["tag"], [tag.strip("' ") for tag in context["expected_tags"].split(",")]
        )
    if reason == "union_tag_not_found":
        tags = ", ".join(_tags(here))
        return f"{name} does not say its {context['discriminator'].strip(chr(39))}. Give one of {tags}."
    if reason == "value_error":
        sentence = str(context["error"]).rstrip(".") + "."
        return f"{name}: {sentence}" if name else sentence
    if reason in ("model_type", "model_attributes_type", "dict_type"):
        return f"{given}: a table of settings is needed."
    if reason == "tuple_type":
        return f"{given}: it should be a list."
    wanted = str(details["msg"]).removeprefix("Input ")
    wanted = wanted[:1].lower() + wanted[1:]
    return f"{given}: it {wanted.rstrip('.')}." if wanted.startswith("should") else f"{given}: {wanted.rstrip('.')}."


def _place(kind: type[BaseModel], location: Sequence[str | int], *, extra: bool) -> tuple[str, list[type[BaseModel]]]:
    """A place as it is written in TOML, and the classes whose table is there.

    pydantic's locations also hold the tags of unions, which nobody wrote; they choose among the classes.
    """
    name, here = "", [kind]
    for position, part in enumerate(location):
        annotation = next((h.model_fields[part].annotation for h in here if part in h.model_fields), None)
        if isinstance(part, int):
            name += f"[{part}]"
        elif annotation is not None:
            name += f".{part}" if name else part
            here = list(_models_in(annotation))
        elif extra and position == len(location) - 1:
            name += f".{part}" if name else part
        else:
            here = [h for h in here if part in _tags([h])] or here
    return name, here


def _tags(kinds: Sequence[type[BaseModel]]) -> list[str]:
    """The methods, or other tags, by which classes are told apart: defaults of fields that take one text only."""
    return [
        str(field.default)
        for kind in kinds
        for field in kind.model_fields.values()
        if get_args(field.annotation) == (field.default,)
    ]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The classes that an annotation names at whatever depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)
