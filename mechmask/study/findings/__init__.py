"""The findings of paper 2F, each a file: its claims, and how a run measures them.

A new finding is one file and one line here.
"""

from __future__ import annotations

from mechmask.study.findings import depth, masking
from mechmask.study.findings.finding import Claim

CLAIMS: tuple[Claim, ...] = (*masking.CLAIMS, *depth.CLAIMS)
