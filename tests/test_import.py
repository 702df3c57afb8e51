"""The public face: ``import mechmask`` is cheap, and what it names is there."""

import ast
import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

import mechmask

_HEAVY = {
    "torch",
    "transformers",
    "transformer_lens",
    "nnsight",
    "tuned_lens",
    "plotly",
    "numpy",
    "scipy",
    "pandas",
    "xarray",
    "pydantic",
    "matplotlib",
    "typer",
}


def _modules_after(code):
    """Top-level names in ``sys.modules`` of a fresh interpreter that ran ``code``."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy():
    loaded = _modules_after("import mechmask; mechmask.__all__; dir(mechmask); mechmask.__version__")
    assert "mechmask" in loaded
    assert not loaded & _HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "import mechmask as mm; mm.synthetic_facts(4); mm.world_facts(); mm.assign_roles; mm.load_facts",
        "import mechmask; mechmask.erase_index; mechmask.commit_layer; mechmask.summary; mechmask.load_reading",
        "import mechmask; mechmask.draw",
    ],
    ids=["facts", "measure", "draw"],
)
def test_the_ground_rooms_load_no_torch(code):
    assert not _modules_after(code) & {"torch", "transformers", "transformer_lens", "peft", "nnsight", "tuned_lens"}


def _declared():
    """Public name to its module, as type checkers are told under TYPE_CHECKING."""
    tree = ast.parse(Path(mechmask.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname: f"{node.module}.{alias.name}" if node.module == "mechmask" else node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


_DECLARED = _declared()


def test_what_is_public_is_what_type_checkers_are_told():
    assert {*_DECLARED, "__version__"} == set(mechmask.__all__) == set(dir(mechmask))
    assert len(mechmask.__all__) == len(set(mechmask.__all__))


def _exists(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", [name for name, module in _DECLARED.items() if _exists(module)])
def test_every_public_name_is_there(name):
    found = getattr(mechmask, name)
    assert getattr(found, "__module__", found.__name__) == _DECLARED[name]
    assert found.__doc__


def test_the_rooms_that_are_done_stay():
    assert {"Fact", "FactSet", "load_facts", "synthetic_facts", "world_facts", "assign_roles"} <= set(
        filter(_is_there, _DECLARED)
    )
    assert {"erase_index", "commit_layer", "summary", "load_reading", "save_reading"} <= set(
        filter(_is_there, _DECLARED)
    )


def _is_there(name):
    return _exists(_DECLARED[name])


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mechmask' has no attribute 'erase_indx'"):
        mechmask.erase_indx  # noqa: B018


def test_using_a_name_does_not_repeat_the_warnings_of_the_caller():
    def warn():
        warnings.warn("said before", stacklevel=1)

    _ = mechmask.Fact  # its module is imported now
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            _ = mechmask.Fact
            warn()
    assert len(shown) == 1
