"""A step of a run: a directory of files with a manifest that says what it was made from and seals every byte.

A step is the same where its settings and inputs are the same. Settings are compared in two ways. The key takes only
those that differ from their defaults, so that a new field with its default leaves old steps valid; the whole settings,
as they were when the step was made, are held against today's as well, so that a default that has changed does not.

No torch here: results are opened by the same code without a model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel

from mechmask.errors import FileError, StudyError
from mechmask.files import content_digest, write_text

MANIFEST = "step.json"
SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Settings:
    """What a step is configured by, as JSON values.

    Attributes:
        chosen: the settings that differ from their defaults; they make the key.
        whole: all settings, defaults included, as they are now.
    """

    chosen: Mapping[str, Any]
    whole: Mapping[str, Any]

    @classmethod
    def of(cls, config: BaseModel, *, leave_out: frozenset[str] = frozenset()) -> Settings:
        """The settings of a configuration, some of its fields left out."""
        left_out = set(leave_out)
        return cls(
            config.model_dump(mode="json", exclude_defaults=True, exclude=left_out),
            config.model_dump(mode="json", exclude=left_out),
        )

    @classmethod
    def of_call(
        cls, function: Callable[..., Any], options: Mapping[str, Any], *, leave_out: frozenset[str] = frozenset()
    ) -> Settings:
        """The options with which a function is called; an option with its default is as good as none.

        Raises:
            StudyError: if an option cannot be written as JSON.
        """
        defaults = {
            name: as_json(parameter.default, f"The default of {name}")
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.default is not parameter.empty and name not in leave_out
        }
        given = {name: as_json(value, f"The option {name}") for name, value in options.items() if name not in leave_out}
        default_texts = {name: _text(value) for name, value in defaults.items()}
        chosen = {name: value for name, value in given.items() if _text(value) != default_texts.get(name)}
        return cls(chosen, {**defaults, **given})

    def __or__(self, other: Settings) -> Settings:
        return Settings({**self.chosen, **other.chosen}, {**self.whole, **other.whole})


NO_SETTINGS = Settings({}, {})


@dataclass(frozen=True)
class Step:
    """A step that is there, whole.

    Attributes:
        name: its name, which is also its path in the run's directory.
        directory: where its files are.
        digest: of its files: what later steps depend on.
        details: what it remembers beside them, as JSON values.
        inputs: digest of everything that it was made from, by name.
    """

    name: str
    directory: Path
    digest: str
    details: Mapping[str, Any]
    inputs: Mapping[str, str]


def digest_of(content: object) -> str:
    """Digest of JSON values."""
    return _hash(content)


def as_json(value: object, what: str) -> Any:
    """A setting as it stands in a manifest: tuples are lists there, configurations are dictionaries.

    Raises:
        StudyError: if it cannot be written as JSON; the sentence begins with ``what``.
    """
    try:
        return json.loads(_text(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise StudyError(
            f"{what} is of the type {type(value).__name__}, which a study cannot write down as a setting. Give "
            "numbers, texts, or lists and dictionaries of them."
        ) from error


def sealed_text(content: Mapping[str, Any]) -> str:
    """JSON values as text that ends with a digest of them."""
    return _text({**content, "seal": _hash(content)})


def unsealed(text: str) -> dict[str, Any]:
    """The values in a text that ``sealed_text`` made.

    Raises:
        ValueError: if it is not, byte for byte, as it was written.
    """
    try:
        content = json.loads(text)
        seal = content.pop("seal")
        whole = _text({**content, "seal": seal}) == text and _hash(content) == seal
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(type(error).__name__) from error
    if not whole:
        raise ValueError("it is not as it was written")
    return content


def code_digest(function: Callable[..., Any]) -> dict[str, str]:
    """Digest of a user's function, as an input of what it makes; none for mechmask's own, which settings describe.

    Two functions of one name, or one that was rewritten since, make different steps.
    """
    if (getattr(function, "__module__", None) or "").partition(".")[0] == "mechmask":
        return {}
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a plain interpreter, or an object that is called
        code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
        source = repr((type(function).__qualname__, code and (code.co_code, code.co_names)))
    return {"code": hashlib.blake2b(source.encode(), digest_size=16).hexdigest()}


def key_of(settings: Settings, inputs: Mapping[str, str]) -> str:
    """The key of a step: a hash of its settings and of the digests of its inputs."""
    return _hash({"settings": settings.chosen, "inputs": dict(inputs)})


def seal_step(
    directory: Path, name: str, settings: Settings, inputs: Mapping[str, str], details: Mapping[str, Any]
) -> None:
    """Write the manifest of a step whose other files are there."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "key": key_of(settings, inputs),
        "settings": dict(settings.whole),
        "inputs": dict(inputs),
        "details": dict(details),
        "files": {
            path.relative_to(directory).as_posix(): content_digest(path)
            for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        },
    }
    write_text(directory / MANIFEST, sealed_text(content))


def is_made_from(directory: Path, settings: Settings, inputs: Mapping[str, str]) -> bool:
    """Whether a directory claims to be the step of these settings and inputs; its files are not looked at."""
    try:
        content = _manifest(directory)
    except StudyError:
        return False
    return content["key"] == key_of(settings, inputs) and _agree(content["settings"], json.loads(_text(settings.whole)))


def require_whole(directory: Path) -> Step:
    """The step in a directory, every byte of it held against its manifest.

    Raises:
        StudyError: naming the file that is missing, cut or altered.
    """
    content = _manifest(directory)
    for name, digest in content["files"].items():
        path = directory / name
        if not path.is_file():
            raise StudyError(f"{path} is missing. {_remedy(directory)}")
        try:
            damaged = content_digest(path) != digest
        except FileError as error:
            raise StudyError(str(error)) from error
        if damaged:
            raise StudyError(f"{path} is damaged: its bytes are not those that were written. {_remedy(directory)}")
    return Step(content["name"], directory, _hash(content["files"]), content["details"], content["inputs"])


def peek(directory: Path) -> Step:
    """The step that a directory claims to hold, by its manifest alone.

    Raises:
        StudyError: if the manifest is missing or damaged.
    """
    content = _manifest(directory)
    return Step(content["name"], directory, _hash(content["files"]), content["details"], content["inputs"])


def label_of(directory: Path) -> str:
    """What tells the step in a directory from others of its name: of other settings, inputs or files another one.

    Raises:
        StudyError: if the manifest is missing or damaged.
    """
    content = _manifest(directory)
    return _hash([content[part] for part in ("key", "settings", "files")])


def file_in(step: Step, name: str) -> Path:
    """The path of a file of a step, as long as that step is the one that lies there.

    Raises:
        StudyError: if another step of the same name has taken its place since.
    """
    if peek(step.directory).digest != step.digest:
        raise StudyError(
            f"{step.name} is not there any more: a step of the same name and other settings or inputs has taken its "
            "place. Give the two names of their own."
        )
    return step.directory / name


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        content = unsealed(path.read_bytes().decode("utf-8"))
        version = content["schema_version"]
    except (OSError, ValueError, KeyError) as error:
        cause = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise StudyError(f"{path} is {cause}. {_remedy(directory)}") from error
    if version != SCHEMA_VERSION:
        raise StudyError(
            f"{path} has schema version {version}; this mechmask reads version {SCHEMA_VERSION}. Run the study again "
            "in a new directory."
        )
    return content


def _remedy(directory: Path) -> str:
    return f"Delete {directory} and run the study again, which makes this step again."


def _agree(stored: object, current: object) -> bool:
    """Whether two settings are equal wherever both say something."""
    if isinstance(stored, dict) and isinstance(current, dict):
        return all(_agree(stored[name], current[name]) for name in stored.keys() & current.keys())
    return stored == current


def _hash(content: object) -> str:
    return xxhash.xxh3_128_hexdigest(_text(content).encode())


def _text(content: object) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=True, default=_json)


def _json(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON, so it is not a setting.")
