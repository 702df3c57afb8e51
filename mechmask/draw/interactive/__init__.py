"""Twins of the figures for a notebook or a web page: the same numbers, and each one names itself under the pointer.

plotly draws them and is loaded only then. It reads text as HTML, so whatever comes from data is escaped.
"""

from mechmask.draw.interactive.checkpoints import checkpoints
from mechmask.draw.interactive.depth import depth
from mechmask.draw.interactive.heatmap import heatmap

__all__ = ["checkpoints", "depth", "heatmap"]
