"""r-ROME: ROME with the key averaged over contexts on both sides (Gupta et al. 2024, «Rebuilding ROME»).

Direction and exact value are at one key then, so that the update is the closed form of the paper's equation 2.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from mechmask.write.keys import KeysAndValues
from mechmask.write.rank_one import Insertion, RankOneConfig, RankOneEditor


class RROMEConfig(RankOneConfig):
    """How r-ROME edits: ``RankOneConfig`` and nothing else."""

    method: Literal["r_rome"] = "r_rome"


class RROME(RankOneEditor):
    """r-ROME at work on a model."""

    method: ClassVar[str] = "r_rome"

    def _insertion(self, read: KeysAndValues) -> Insertion:
        key = read.keys.mean(0)
        return Insertion(key, key, read.values.mean(0))
