"""What a package index and a source distribution show: no link that leads nowhere, no file that is not there."""

import re
import sys
from pathlib import Path

import pytest

from mechmask.study.pages import citation as cited

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(!?)\[[^\]]*\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def readme():
    return (_ROOT / "README.md").read_text(encoding="utf-8")


def test_every_relative_link_of_the_readme_is_a_file_of_the_source_distribution(project, readme):
    links = [target for _, target in _LINK.findall(readme)]
    assert links
    included = [entry.strip("/") for entry in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    for target in links:
        assert (_ROOT / target).is_file(), target
        assert any(Path(target).match(entry) or target.startswith(f"{entry}/") for entry in included), target


def test_what_a_package_index_shows_has_no_relative_link(project, readme):
    shown = readme
    for substitution in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(substitution["pattern"], substitution["replacement"], shown)
    assert _LINK.findall(shown) == []
    for target in {target for _, target in _LINK.findall(readme)}:
        assert Path(target).name in shown, "what a link led to is still named"
    assert shown.count("](https://") == readme.count("](https://"), "links that lead somewhere stay"


def test_what_a_source_distribution_includes_is_there(project):
    for entry in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert list(_ROOT.glob(entry.strip("/"))), entry


def test_the_citation_is_of_this_version(project):
    citation = (_ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['project']['version']}\n" in citation
    assert project["project"]["urls"]["Paper"].removeprefix("https://doi.org/") in citation


def test_a_page_cites_what_the_citation_says(project):
    citation = (_ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'\ntitle: "{cited.TITLE}"\n' in citation and f'name: "{cited.AUTHORS}"' in citation
    assert f'title: "{cited.PAPER_TITLE}"' in citation and f"doi: {cited.PAPER_DOI}" in citation
    assert f'family-names: "{cited.PAPER_FAMILY}"' in citation and f'given-names: "{cited.PAPER_GIVEN}"' in citation
    assert f"year: {cited.PAPER_YEAR}" in citation
    for text in (cited.TITLE, cited.PAPER_TITLE, cited.PAPER_DOI, project["project"]["version"]):
        assert text in cited.bibtex()
