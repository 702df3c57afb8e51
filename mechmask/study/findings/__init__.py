"""The findings of paper 2F, each a file: its claims, and how a run measures them.

A new finding is one file and one line here.
"""

from __future__ import annotations

from mechmask.study.findings import comeback, correlations, depth, edits, limits, masking
from mechmask.study.findings.finding import Claim

_FILES = (masking, limits, correlations, edits, depth, comeback)
CLAIMS: tuple[Claim, ...] = tuple(claim for file in _FILES for claim in file.CLAIMS)
