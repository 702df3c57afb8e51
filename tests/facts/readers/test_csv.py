"""CSV beyond what Python's reader takes by default, and tables that say two things at once."""

import csv

import pytest

import mechmask as mm
from mechmask.errors import FactError

_HEADER = "subject,prompt,old,new,relation\n"


@pytest.mark.parametrize("limit", [131_072, 10, 10**6])
def test_cells_of_any_length_are_read_and_the_callers_limit_stays(limit, tmp_path):
    long = "x" * 200_000
    (tmp_path / "f.csv").write_text(f"{_HEADER}Uxmon,Uxmon is,{long},2,mass\n")
    before = csv.field_size_limit(limit)
    try:
        (fact,) = mm.load_facts(tmp_path / "f.csv")
        assert csv.field_size_limit() == limit
        (tmp_path / "f.csv").write_text(f"{_HEADER}a,b,c,d,e,f,g\n")
        with pytest.raises(FactError):
            mm.load_facts(tmp_path / "f.csv")
        assert csv.field_size_limit() == limit
    finally:
        csv.field_size_limit(before)
    assert fact.old == long


def test_a_nul_is_named_with_its_line(tmp_path):
    (tmp_path / "f.csv").write_text(f"{_HEADER}Uxmon,Uxmon is,1,2,ma\0ss\n")
    with pytest.raises(FactError, match=r"^Line 2 of f\.csv holds a NUL character\. Save the file as UTF-8 text\.$"):
        mm.load_facts(tmp_path / "f.csv")


def test_utf16_is_refused(tmp_path):
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "f.csv").write_bytes(_HEADER.encode(encoding))
        with pytest.raises(FactError, match=r"Save (it|the file) as UTF-8"):
            mm.load_facts(tmp_path / "f.csv")


def test_a_column_that_comes_twice_is_refused(tmp_path):
    (tmp_path / "f.csv").write_text("subject,prompt,old,new,old\nUxmon,Uxmon is,1,2,3\n")
    with pytest.raises(FactError, match=r"^The header of f\.csv has 'old' twice\. Keep one of the columns\.$"):
        mm.load_facts(tmp_path / "f.csv")
