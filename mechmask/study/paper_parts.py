"""The parts of a paper study: which protocol each is, and of which facts.

A new part is one line here, and its configuration in ``PaperConfig``.
"""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """One part.

    Attributes:
        protocol: the experiment.
        facts: ``known`` to the model from pretraining, or ``taught`` first.
    """

    protocol: str
    facts: str


PARTS = {
    "correction": Part("correction", "known"),
    "twins": Part("twins", "taught"),
    "mask": Part("mask", "taught"),
    "mask_known": Part("mask", "known"),
    "dose": Part("dose", "known"),
    "precision": Part("precision", "known"),
    "contrast": Part("contrast", "known"),
    "reactance": Part("reactance", "taught"),
    "reactance_known": Part("reactance", "known"),
    "reacquisition": Part("reacquisition", "taught"),
    "reacquisition_known": Part("reacquisition", "known"),
    "renewal": Part("renewal", "taught"),
    "renewal_known": Part("renewal", "known"),
}

NOTHING_TO_INSTALL = tuple(name for name in PARTS if name.endswith("_known"))
"""Parts whose protocol installs facts elsewhere, and here finds them held already."""
