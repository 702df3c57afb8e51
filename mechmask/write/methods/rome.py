"""ROME: rank-one model editing (Meng et al. 2022), with the keys of the published code.

The direction is that of the key averaged over contexts, the value stands exactly at the key of the bare prompt.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from mechmask.write.keys import KeysAndValues
from mechmask.write.rank_one import Insertion, RankOneConfig, RankOneEditor


class ROMEConfig(RankOneConfig):
    """How ROME edits: ``RankOneConfig`` and nothing else."""

    method: Literal["rome"] = "rome"


class ROME(RankOneEditor):
    """ROME at work on a model."""

    method: ClassVar[str] = "rome"

    def _insertion(self, read: KeysAndValues) -> Insertion:
        return Insertion(read.keys.mean(0), read.keys[0], read.values[0])
