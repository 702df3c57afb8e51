"""Puts the files that README.md links to into the site, under the paths that they have in the repository.

A section of the README that stands in a page (pymdownx.snippets) keeps its links and figures that way, and nothing is
stored twice. Pages that include such a section lie at the top of ``docs``, where relative links are the README's.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file of the repository that the README links to."""
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    for path in dict.fromkeys(_LINK.findall(readme)):
        if (_ROOT / path).is_file():
            files.append(File.generated(config, path, abs_src_path=str(_ROOT / path)))
    return files
