"""How mechmask and the paper that it follows are cited: what ``CITATION.cff`` says, which is not part of a wheel.

The version is that of the installed package; a test holds the rest against the file.
"""

from __future__ import annotations

from importlib.metadata import version

TITLE = "mechmask: is a fact that a language model no longer says deleted, or out-competed?"
AUTHORS = "The mechmask developers"
PAPER_TITLE = "Compete, Don't Erase: contradictory fine-tuning masks rather than deletes knowledge"
PAPER_FAMILY, PAPER_GIVEN = "Pødenphant Lund", "Tomas"
PAPER_YEAR = 2026
PAPER_DOI = "10.5281/zenodo.20570433"


def bibtex() -> str:
    """Both as BibTeX, in UTF-8."""
    return (
        f"@software{{mechmask,\n  title = {{{{{TITLE}}}}},\n  author = {{{{{AUTHORS}}}}},\n"
        f"  version = {{{version('mechmask')}}},\n  license = {{MIT}}\n}}\n\n"
        f"@misc{{lund{PAPER_YEAR}compete,\n  title = {{{{{PAPER_TITLE}}}}},\n"
        f"  author = {{{PAPER_FAMILY}, {PAPER_GIVEN}}},\n  year = {{{PAPER_YEAR}}},\n  doi = {{{PAPER_DOI}}}\n}}\n"
    )
