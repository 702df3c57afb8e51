"""What an edited model is fine-tuned on afterwards: examples of a task, and where the training ends.

The tasks are those of Wen and Zhang (2025, C.2): running text, facts that the model does not know, and instructions.
Whatever names an edited or intrinsic fact's subject or one of its values is left out, so that nothing is taught about
them. The examples that say when a training ends are drawn from its own data, as in the paper.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from mechmask.configuration import Configuration
from mechmask.errors import FileError, StudyError
from mechmask.facts.fact import Example
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import load_facts
from mechmask.file_errors import file_errors
from mechmask.models.model import Model
from mechmask.read.examples import read_examples
from mechmask.study.until import UntilHeldOut
from mechmask.write.finetune_config import FinetuneConfig

Kind = Literal["text", "facts", "instructions"]

_INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\n{}\n\n### Response:"
)


class LaterTask(Configuration):
    """A fine-tuning that comes after the edits.

    Attributes:
        kind: ``text``, next-token prediction on a text file; ``facts``, true values of facts that the model does not
            say, from a file of facts; ``instructions``, answers to the instructions of a JSON file (a list of records
            with ``instruction``, ``output`` and perhaps ``input``).
        source: path of the file.
        name: by which results call it; the kind by default.
        n: examples to train on.
        n_held_out: of those, how many are read to say when the training ends.
        words: length of a text's example, in words.
        finetune: how; the weights themselves, as in the paper, by default.
        until: where it ends before its last step, such as ``{ loss = 3.1 }`` or ``{ accuracy = 0.7 }``; at its last
            step by default.
        check_every: optimizer steps between two readings.
        seed: draws the examples.
    """

    kind: Kind
    source: Path
    name: str = ""
    n: int = Field(default=256, ge=1)
    n_held_out: int = Field(default=32, ge=1)
    words: int = Field(default=32, ge=2)
    finetune: FinetuneConfig = FinetuneConfig(method="full", lr=5e-5, steps=60, batch_size=16, weight_decay=0.01)
    until: UntilHeldOut | None = None
    check_every: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)

    @property
    def label(self) -> str:
        """By which results call it."""
        return self.name or self.kind


class Lessons(NamedTuple):
    """The examples of a task.

    Attributes:
        train: all of them.
        held_out: those that say when the training ends.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


def lessons_of(task: LaterTask, model: Model, groups: FactSet) -> Lessons:
    """The examples of a task, drawn.

    Args:
        task: which.
        model: that is trained; asked what it knows for ``facts``.
        groups: edited and intrinsic facts, of which no example may speak.

    Raises:
        FileError: if the source cannot be read.
        FactError: if a file of facts is not usable.
        StudyError: if there are fewer examples than are asked for.
    """
    rng = random.Random(task.seed)
    found = _READERS[task.kind](task, model, groups, rng)
    if len(found) < task.n:
        raise StudyError(
            f"The task {task.label!r} has {len(found)} examples that speak of no edited or intrinsic fact, and "
            f"{task.n} are asked for. Ask for fewer, or give another source than {task.source.name}."
        )
    drawn = rng.sample(found, task.n)
    return Lessons(tuple(drawn), tuple(drawn[: task.n_held_out]))


def _read(path: Path) -> str:
    with file_errors(path, "read"):
        content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error


def _text(task: LaterTask, _model: Model, groups: FactSet, _rng: random.Random) -> list[Example]:
    """Pieces of a text: all but the first word of each is asked for."""
    words = _read(task.source).split()
    pieces = [words[start : start + task.words] for start in range(0, len(words) - task.words + 1, task.words)]
    examples = [
        Example(prompt=first, value=" ".join(rest), fact_id=f"text {number}")
        for number, (first, *rest) in enumerate(pieces)
    ]
    return list(_about_others(examples, groups))


def _facts(task: LaterTask, model: Model, groups: FactSet, rng: random.Random) -> list[Example]:
    """True values of facts that the model does not say."""
    pool = [fact.example(fact.prompt, fact.old) for fact in load_facts(task.source)]
    candidates = list(_about_others(pool, groups))
    rng.shuffle(candidates)
    unknown: list[Example] = []
    for start in range(0, len(candidates), task.n):  # no more are read than are needed
        some = candidates[start : start + task.n]
        said = read_examples(model, some).exact.values
        unknown += [example for example, is_said in zip(some, said, strict=True) if not is_said]
        if len(unknown) >= task.n:
            break
    return unknown


def _instructions(task: LaterTask, _model: Model, groups: FactSet, _rng: random.Random) -> list[Example]:
    """The answer to each instruction."""
    try:
        records = json.loads(_read(task.source))
    except ValueError as error:
        raise FileError(f"{task.source} is not JSON ({error}). Give a list of records.") from error
    if not isinstance(records, list) or not all(_is_instruction(record) for record in records):
        raise FileError(f"{task.source} is no list of records with instruction and output. Give such a file.")
    examples = []
    for number, record in enumerate(records):
        asked = "\n".join(filter(None, (record["instruction"].strip(), str(record.get("input") or "").strip())))
        prompt = _INSTRUCTION.format(asked)
        examples.append(Example(prompt=prompt, value=record["output"].strip(), fact_id=f"instruction {number}"))
    return list(_about_others(examples, groups))


def _is_instruction(record: Any) -> bool:
    return isinstance(record, Mapping) and all(
        isinstance(record.get(name), str) and record[name].strip() for name in ("instruction", "output")
    )


def _about_others(examples: list[Example], groups: FactSet) -> Iterator[Example]:
    """The examples that name no subject and no value of a fact."""
    taught = [fact for fact in groups if fact.role != "never"]
    names = sorted({name for fact in taught for name in (fact.subject, fact.old, fact.new)}, key=len, reverse=True)
    named = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)")
    for example in examples:
        if not named.search(f"{example.prompt}{example.joiner}{example.value}"):
            yield example


_READERS: Mapping[Kind, Callable[[LaterTask, Model, FactSet, random.Random], list[Example]]] = {
    "text": _text,
    "facts": _facts,
    "instructions": _instructions,
}
