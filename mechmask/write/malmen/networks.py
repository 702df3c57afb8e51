"""The hypernetworks of MALMEN for a model: one for each shape of map, the update that they make, and their directory.

They belong to the model that they were trained on: what a key and a gradient mean there is all that they have learned.
A saved directory therefore carries its fingerprint. It holds safetensors and JSON, sealed; nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mechmask.errors import ChangeError, MechmaskError
from mechmask.files import new_sealed_directory, require_sealed
from mechmask.models.fingerprint import digest
from mechmask.models.gradients import with_gradients, without_gradients
from mechmask.models.model import Model
from mechmask.write.editor import require_layers, require_plain_projections
from mechmask.write.low_rank import Factors
from mechmask.write.malmen.answers import AnswerSignals
from mechmask.write.malmen.hypernetwork import Hypernetwork
from mechmask.write.malmen.ridge import Ridge

SCHEMA_VERSION = 1
_CHUNK = 1024  # tokens that a network reads together, as published; affects memory only
_REMEDY = "Train the networks again."


class _Header(BaseModel):
    """What ``hypernetworks.json`` says.

    Attributes:
        schema_version: of the directory.
        base: fingerprint of the model that the networks were trained on.
        widths: of a key and of a value, by block.
        rank, n_blocks: of every network.
        training: how they were trained; empty where they were not.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: int
    base: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    widths: dict[str, Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]]
    rank: Annotated[int, Field(ge=1)]
    n_blocks: Annotated[int, Field(ge=0)]
    training: dict[str, Any]


@dataclass(frozen=True)
class Update:
    """What one map is to learn, and the problem that it solves.

    Attributes:
        differences: of the value at each answer token ``[token, value]``.
        ridge: the problem of the keys.
    """

    differences: Float[Tensor, "token value"]
    ridge: Ridge

    @property
    def factors(self) -> Factors:
        """The update of the map."""
        return self.ridge.factors(self.differences)


class Hypernetworks:
    """The networks for the MLP output projections of some blocks. ``hypernetworks_for`` makes them for a model.

    Args:
        widths: of a key and of a value, by block.
        base: fingerprint of what they are for.
        rank: of the products in a network.
        n_blocks: residual blocks of a network; with none it is the identity for good.
        lr: eta of every map at the start.
        ridge: of every map at the start.

    Attributes:
        base, widths, rank, n_blocks: as above.
        training: how they were trained, as JSON values; empty where they were not.
    """

    def __init__(
        self,
        widths: Mapping[int, tuple[int, int]],
        base: str,
        *,
        rank: int = 1,
        n_blocks: int = 0,
        lr: float = 1e-6,
        ridge: float = 1.0,
    ) -> None:
        self.base, self.widths, self.rank, self.n_blocks = base, dict(widths), rank, n_blocks
        self.training: dict[str, Any] = {}
        shapes = list(dict.fromkeys(widths.values()))
        alike = {shape: [layer for layer in widths if widths[layer] == shape] for shape in shapes}
        self._places = {layer: (_name(shape), n) for shape, here in alike.items() for n, layer in enumerate(here)}
        self._networks = nn.ModuleDict(
            {
                _name(shape): Hypernetwork(*shape, len(alike[shape]), rank=rank, n_blocks=n_blocks, lr=lr, ridge=ridge)
                for shape in shapes
            }
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks, in order."""
        return tuple(self.widths)

    @property
    def digest(self) -> str:
        """Of every number in them."""
        return digest(self._networks.state_dict().items())

    def of(self, layer: int) -> tuple[Hypernetwork, int]:
        """The network of a block, and which of its maps the block's is.

        Args:
            layer: the block.
        """
        name, number = self._places[layer]
        return self._network(name), number

    def networks(self) -> Iterator[Hypernetwork]:
        """Each of them once."""
        yield from map(self._network, self._networks)

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return list(self._networks.parameters())

    def to(self, *where: Any) -> None:
        """Move them to a device, or make them of another type.

        Args:
            where: as torch's ``Module.to`` takes it.
        """
        self._networks.to(*where)

    def draw(self, seed: int) -> None:
        """Draw the first factors of every network from a seed alone.

        Args:
            seed: the seed.
        """
        for place, network in enumerate(self.networks()):
            network.draw(seed + place)

    def observe(self, signals: AnswerSignals) -> None:
        """Take keys and gradients into the statistics; only training does.

        Args:
            signals: of a step's facts.
        """
        for layer in self.layers:
            network, _ = self.of(layer)
            network.observe(*_pairs(signals, layer, network))

    def update(self, layer: int, signals: AnswerSignals) -> Update:
        """What one map is to learn from some answers.

        Args:
            layer: the block.
            signals: of the answers.

        Raises:
            ChangeError: if the keys leave no update.
        """
        network, number = self.of(layer)
        keys, gradients = _pairs(signals, layer, network)
        with without_gradients():
            chunks = zip(keys.split(_CHUNK), gradients.split(_CHUNK), strict=True)
            differences = torch.cat([network(*chunk, number) for chunk in chunks])
        return Update(differences, Ridge(keys, network.ridges[number]))

    def backward(
        self, layer: int, signals: AnswerSignals, update: Update, gradient: Float[Tensor, "key value"]
    ) -> None:
        """Add to the parameters' gradients what a loss by a map's update asks for.

        The way through the ridge is by hand, that through the network made again a chunk at a time, so that memory
        does not grow with the facts: what the paper calls decoupled.

        Args:
            layer: the block.
            signals: of the answers.
            update: what was made of them.
            gradient: of the loss by the update as it acts on a row, ``dL/dS``.
        """
        network, number = self.of(layer)
        keys, gradients = _pairs(signals, layer, network)
        by_difference, by_log_ridge = update.ridge.backward(gradient.to(keys.device), update.differences)
        wanted = by_difference.to(keys.dtype).split(_CHUNK)
        with with_gradients():
            for chunk, key, gradient_of_value in zip(wanted, keys.split(_CHUNK), gradients.split(_CHUNK), strict=True):
                network(key, gradient_of_value, number).backward(chunk)
            (network.log_ridge[number] * by_log_ridge).backward()

    def save(self, directory: str | Path) -> None:
        """Write the networks into a new directory, atomically: JSON, safetensors, and a digest of each file.

        Args:
            directory: where to; it must not exist yet.

        Raises:
            ChangeError: if the directory already exists.
            FileError: if it cannot be written.
        """
        header = _Header(
            schema_version=SCHEMA_VERSION,
            base=self.base,
            widths={str(layer): list(widths) for layer, widths in self.widths.items()},
            rank=self.rank,
            n_blocks=self.n_blocks,
            training=self.training,
        )
        with new_sealed_directory(Path(directory), "the networks", ChangeError) as temporary:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self._networks.state_dict().items()}
            save_file(tensors, temporary / "networks.safetensors")
            text = json.dumps(header.model_dump(), indent=2)
            (temporary / "hypernetworks.json").write_text(text, encoding="utf-8")

    def _network(self, name: str) -> Hypernetwork:
        network: Any = self._networks[name]
        return network

    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        wanted = self._networks.state_dict()
        for name, tensor in tensors.items():
            if name in wanted and tensor.is_floating_point() != wanted[name].is_floating_point():
                raise ValueError(f"{name} is of another type")
            if not tensor.isfinite().all():
                raise ChangeError(f"{name} holds a number that is not finite. {_REMEDY}")
        self._networks.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)


def hypernetworks_for(model: Model, layers: tuple[int, ...], **options: Any) -> Hypernetworks:
    """Networks for the MLP output projections of some blocks of a model as it is now, before any training.

    Args:
        model: the model; an applied change counts.
        layers: the blocks, 0..L-1.
        options: ``rank``, ``n_blocks``, ``lr`` and ``ridge``, as ``Hypernetworks`` takes them.

    Raises:
        ChangeError: if there is no such block.
    """
    return Hypernetworks(widths_of(model, layers), model.fingerprint, **options)


def widths_of(model: Model, layers: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """The widths of a key and of a value in some blocks.

    Args:
        model: the model.
        layers: the blocks, 0..L-1.

    Raises:
        ChangeError: if there is no such block, or an adapter on one does more than add to what its weight gives out.
    """
    require_layers(model, layers)
    require_plain_projections(model, layers)
    widths = {}
    for layer in layers:
        projection = model.anatomy.mlp_output(layer)
        first, second = projection.weight.shape
        widths[layer] = (first, second) if projection.input_first else (second, first)
    return widths


def load_hypernetworks(directory: str | Path) -> Hypernetworks:
    """The networks that ``Hypernetworks.save`` wrote into a directory; every file is held against its digest.

    Args:
        directory: where they are.

    Raises:
        ChangeError: if it holds none, some of a schema that this version does not know, or damaged ones.
        FileError: if a file cannot be read.
    """
    path = Path(directory)
    if not (path / "hypernetworks.json").is_file():
        raise ChangeError(f"{path} holds no hypernetworks. Give a directory that Hypernetworks.save wrote.")
    require_sealed(path, "What is", _REMEDY, error=ChangeError)
    try:
        header = json.loads((path / "hypernetworks.json").read_bytes().decode("utf-8"))
        if isinstance(header, dict) and header.get("schema_version") != SCHEMA_VERSION:
            raise ChangeError(
                f"its schema is {header.get('schema_version')!r}, and this mechmask reads {SCHEMA_VERSION}. {_REMEDY}"
            )
        said = _Header.model_validate(header)
        with torch.device("meta"):  # a header makes nothing large: what there is, is what the tensors are
            widths = {int(layer): (key, value) for layer, (key, value) in said.widths.items()}
            networks = Hypernetworks(widths, said.base, rank=said.rank, n_blocks=said.n_blocks)
        networks._fill(load_file(path / "networks.safetensors"))
    except MechmaskError as error:
        raise ChangeError(f"The hypernetworks in {path} cannot be used: {error}") from error
    except Exception as error:  # whatever a file of unknown origin makes a reader raise
        raise ChangeError(f"The hypernetworks in {path} are not whole ({type(error).__name__}). {_REMEDY}") from error
    networks.training = said.training
    return networks


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}_{shape[1]}"


def _pairs(signals: AnswerSignals, layer: int, network: Hypernetwork) -> tuple[Tensor, Tensor]:
    """Keys and gradients of a block where its network is, and in its type."""
    return signals.keys[layer].to(network.lr), signals.gradients[layer].to(network.lr)
