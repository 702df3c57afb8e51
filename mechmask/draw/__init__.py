"""Figures from labelled arrays: what a reading says, drawn with its intervals. matplotlib here, no torch.

Each function takes a reading or result and returns a matplotlib ``Figure``; ``save_figure`` writes one reproducibly.
All take ``axes`` (``ax`` where there is one panel), ``width``, ``title``, ``palette`` and ``font_size``, and let the
user's ``rcParams`` and styles pass; in ``house_style`` the user's own figures look like them. ``interactive`` holds
twins of some of them for a notebook, which need plotly; ``report`` writes the page of a study.
"""

from mechmask.draw import interactive
from mechmask.draw.association import association
from mechmask.draw.calibration import calibration
from mechmask.draw.categories import categories
from mechmask.draw.checkpoints import checkpoints
from mechmask.draw.contrast import contrast
from mechmask.draw.cosine import cosine
from mechmask.draw.delta import delta
from mechmask.draw.depth import depth
from mechmask.draw.dose import dose
from mechmask.draw.drawing import save_figure
from mechmask.draw.drift import drift
from mechmask.draw.editors import editors
from mechmask.draw.editors_depth import editors_depth
from mechmask.draw.editors_sequence import editors_sequence
from mechmask.draw.elasticity import elasticity
from mechmask.draw.erase import erase
from mechmask.draw.heatmap import heatmap
from mechmask.draw.interventions import interventions
from mechmask.draw.lens_quality import lens_quality
from mechmask.draw.models import models
from mechmask.draw.precision import precision
from mechmask.draw.reacquisition import reacquisition
from mechmask.draw.renewal import renewal
from mechmask.draw.report import report
from mechmask.draw.retention import retention
from mechmask.draw.style import house_style
from mechmask.draw.sweep import sweep
from mechmask.draw.trace import trace
from mechmask.draw.trajectory import trajectory
from mechmask.draw.waterfall import waterfall
from mechmask.draw.weights import weights

__all__ = [
    "association",
    "calibration",
    "categories",
    "checkpoints",
    "contrast",
    "cosine",
    "delta",
    "depth",
    "dose",
    "drift",
    "editors",
    "editors_depth",
    "editors_sequence",
    "elasticity",
    "erase",
    "heatmap",
    "house_style",
    "interactive",
    "interventions",
    "lens_quality",
    "models",
    "precision",
    "reacquisition",
    "renewal",
    "report",
    "retention",
    "save_figure",
    "sweep",
    "trace",
    "trajectory",
    "waterfall",
    "weights",
]
