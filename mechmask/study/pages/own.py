"""Results of a protocol that the page does not know, such as one of the user's own: what each of them holds."""

from __future__ import annotations

import pandas as pd

from mechmask.draw.page.content import Section, Sheet
from mechmask.study.results import StudyResults


def own_sections(results: StudyResults, there: list[str], level: int = 2) -> list[Section]:
    """A table of what every result holds, to be opened in Python.

    Args:
        results: of a study.
        there: its results.
        level: of the heading.
    """
    rows = []
    for name in there:
        held = results.reading(name)
        sizes = ", ".join(f"{size} {dim}" for dim, size in held.sizes.items())
        rows.append({"result": name, "size": sizes, "variables": ", ".join(map(str, held.data_vars))})
    said = (
        f"The {len(rows)} results that the study holds, with their sizes; n is the size along fact. In Python, "
        "reading(name) "
        "of the opened study gives each."
    )
    return (
        [Section("What the study holds", [Sheet(said, pd.DataFrame(rows).set_index("result"))], level)] if rows else []
    )
