"""Runs the Python of a page from top to bottom and writes what each block prints beneath it: no output is typed.

``python assets/site/run_pages.py index.md tutorial.md``. A block whose output is shown is followed by a fence
```` ```text title="Output" ````. Figures that the page saves by a bare name are kept in ``docs/figures``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent / "docs"
BLOCK = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```\n", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r'\s*?^```text title="Output"\n(.*?)^```\n', re.MULTILINE | re.DOTALL)


def python_blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order, without their indentation.

    Args:
        page: its Markdown.
    """
    return [textwrap.dedent(match[2]) for match in BLOCK.finditer(page)]


def with_outputs(page: str) -> str:
    """The page with what its blocks print, which are run in one namespace.

    Args:
        page: its Markdown.
    """
    names: dict[str, object] = {}
    made, end = [], 0
    for match in BLOCK.finditer(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(textwrap.dedent(match[2]), "page", "exec"), names)
        made.append(page[end : match.end()])
        end = match.end()
        if (shown := OUTPUT.match(page, end)) is not None:
            lines = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
            made.append(f'\n```text title="Output"\n{lines}```\n')
            end = shown.end()
    return "".join([*made, page[end:]])


def run(name: str) -> None:
    """Run a page in a directory of its own, and write its outputs and figures.

    Args:
        name: of its file in ``docs``.
    """
    path = DOCS / name
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        page = with_outputs(path.read_text(encoding="utf-8"))
        for figure in Path(scratch).glob("*.png"):
            (DOCS / "figures").mkdir(exist_ok=True)
            shutil.copy(figure, DOCS / "figures" / figure.name)
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for page_name in sys.argv[1:]:
        run(page_name)
