"""Twins of the figures for a notebook or a web page: the same numbers, and each one names itself under the pointer.

plotly draws them and is loaded only then. It reads text as HTML, so whatever comes from data is escaped.
``contest_view`` is a widget of its own (anywidget), and ``contest_view_html`` the same for a page.
"""

from mechmask.draw.interactive.checkpoints import checkpoints
from mechmask.draw.interactive.contest_view import contest_view, contest_view_html
from mechmask.draw.interactive.depth import depth
from mechmask.draw.interactive.heatmap import heatmap

__all__ = ["checkpoints", "contest_view", "contest_view_html", "depth", "heatmap"]
