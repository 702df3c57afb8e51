"""The documentation's pages: each is in the navigation, its Python names things that exist, every public name is once.

``assets/site/run_pages.py`` runs the pages whose output is shown; that the home page's is still true is tried here.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pydantic
import pytest

import mechmask as mm

_SITE = Path(__file__).parent.parent / "assets" / "site"
_DOCS = _SITE / "docs"
_PAGES = sorted(path.relative_to(_DOCS).as_posix() for path in _DOCS.rglob("*.md"))
_NUMBER = re.compile(r"-?\d+\.\d+")


def _run_pages() -> Any:
    spec = importlib.util.spec_from_file_location("run_pages", _SITE / "run_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_RUN = _run_pages()


def _text(page: str) -> str:
    return (_DOCS / page).read_text(encoding="utf-8")


_WITH_PYTHON = [page for page in _PAGES if _RUN.python_blocks(_text(page))]


def _called(node: ast.expr) -> tuple[str, ...]:
    """``mm.draw.depth`` as its parts; empty where it does not begin with ``mm``."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return tuple(reversed(parts)) if isinstance(node, ast.Name) and node.id == "mm" else ()


def _public(parts: tuple[str, ...]) -> Any:
    value = mm
    for part in parts:
        value = getattr(value, part)
    return value


def _takes(callee: Any) -> tuple[set[str], bool]:
    """The names of a callable's arguments, and whether it takes others too."""
    if inspect.isclass(callee) and issubclass(callee, pydantic.BaseModel):
        return set(callee.model_fields), False
    parameters = inspect.signature(callee).parameters.values()
    return {one.name for one in parameters}, any(one.kind is one.VAR_KEYWORD for one in parameters)


def test_every_page_is_in_the_navigation_once():
    settings = (_SITE / "mkdocs.yml").read_text(encoding="utf-8")
    listed = Counter(re.findall(r"[\w/-]+\.md\b", settings.split("\nnav:")[1]))
    assert sorted(listed) == _PAGES
    assert set(listed.values()) == {1}


def test_every_public_name_is_in_the_reference_once():
    documented = Counter(name for page in _PAGES for name in re.findall(r"^::: mechmask\.(\S+)$", _text(page), re.M))
    public = {name for name in mm.__all__ if name not in ("__version__", "draw")}
    drawn = [(room, name) for room in (mm.draw, mm.draw.interactive) for name in room.__all__ if name != "interactive"]
    figures = {f"{getattr(room, name).__module__.removeprefix('mechmask.')}.{name}" for room, name in drawn}
    missing = sorted((public | figures) - set(documented))
    assert not missing, f"add to a page of assets/site/docs/api: {['::: mechmask.' + name for name in missing]}"
    assert not sorted(set(documented) - public - figures), "named in the reference, and not public"
    assert [name for name, n in documented.items() if n > 1] == []


@pytest.mark.parametrize("page", _WITH_PYTHON)
def test_what_a_page_calls_exists_and_takes_what_it_is_given(page):
    """``mm.name`` is public, and of every call the keywords are the callee's."""
    tree = ast.parse("\n".join(_RUN.python_blocks(_text(page))), page)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (parts := _called(node)):
            assert hasattr(_public(parts[:-1]), parts[-1]), f"mm.{'.'.join(parts)} on {page}"
        if isinstance(node, ast.Call) and (parts := _called(node.func)):
            names, any_other = _takes(_public(parts))
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert any_other or given <= names, f"mm.{'.'.join(parts)} on {page} takes no {given - names}"


@pytest.mark.parametrize("page", _WITH_PYTHON)
def test_the_python_of_a_page_uses_no_name_that_it_does_not_make(page):
    """From top to bottom: what a block uses was imported or assigned in it or above it on the page."""
    known = set(dir(__builtins__)) | set(__builtins__ if isinstance(__builtins__, dict) else ())
    for block in _RUN.python_blocks(_text(page)):
        names = [node for node in ast.walk(ast.parse(block, page)) if isinstance(node, (ast.Name, ast.arg, ast.alias))]
        made = {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        made |= {node.arg for node in names if isinstance(node, ast.arg)}
        made |= {(node.asname or node.name).split(".")[0] for node in names if isinstance(node, ast.alias)}
        made |= {node.name for node in ast.walk(ast.parse(block)) if isinstance(node, ast.FunctionDef)}
        known |= made
        used = {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert used <= known, f"{page}: {sorted(used - known)}"


def test_every_section_of_the_readme_that_a_page_takes_is_there_and_closed():
    readme = (_SITE.parents[1] / "README.md").read_text(encoding="utf-8")
    opened, closed = (re.findall(rf"<!-- --8<-- \[{which}:([\w-]+)\] -->", readme) for which in ("start", "end"))
    taken = [name for page in _PAGES for name in re.findall(r'--8<-- "README\.md:([\w-]+)"', _text(page))]
    assert sorted(opened) == sorted(closed) == sorted(set(taken))
    for name in opened:
        start, end = (readme.index(f"<!-- --8<-- [{which}:{name}] -->") for which in ("start", "end"))
        assert "<!-- --8<-- [" not in readme[start + 10 : end], f"{name} holds another section"


def test_nothing_of_a_page_is_fetched():
    """Links may lead out; pictures, scripts and styles lie in the site."""
    for page in _PAGES:
        assert not re.findall(r"!\[[^\]]*\]\(https?:|<(?:script|link|img|iframe)\b|```mermaid", _text(page)), page
    settings = (_SITE / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings
    assert "https:" not in settings


def test_the_home_page_shows_what_its_example_prints(smol, monkeypatch):
    """Word for word, numbers within what other processors and versions make of them."""
    page = _text("index.md")
    monkeypatch.setattr(mm, "load_model", lambda name: smol, raising=False)
    made = _RUN.with_outputs(page)
    (shown,), (printed,) = _RUN.OUTPUT.findall(page), _RUN.OUTPUT.findall(made)
    assert _NUMBER.sub("#", printed) == _NUMBER.sub("#", shown)
    numbers, again = ([float(one) for one in _NUMBER.findall(text)] for text in (shown, printed))
    assert again == pytest.approx(numbers, abs=0.3)
