"""Figures from labelled arrays: what a reading says, drawn with its intervals. matplotlib here, no torch.

Each function takes a reading or result and returns a matplotlib ``Figure``; ``save_figure`` writes one reproducibly.
"""

from mechmask.draw.depth import depth
from mechmask.draw.erase import erase
from mechmask.draw.style import save_figure
from mechmask.draw.trajectory import trajectory

__all__ = ["depth", "erase", "save_figure", "trajectory"]
