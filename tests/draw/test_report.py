"""What ``draw.report`` takes, where it writes, and what it refuses."""

from __future__ import annotations

import pytest

from mechmask import draw
from mechmask.draw.page.content import Document, Section
from mechmask.errors import FileError, ReadingError, StudyError


class Found:
    """Results of anybody's own: all that a page asks for."""

    def page(self) -> Document:
        return Document("Mine", ["Said."], [Section("A section", [])])


def test_whatever_has_a_page_is_written_and_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "new" / "report.html"
    assert draw.report(Found(), path) == path
    first = path.read_bytes()
    assert b"<h1" in first and b"Mine" in first
    draw.report(Found(), path)
    assert path.read_bytes() == first and [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_a_page_that_fails_leaves_the_old_one(tmp_path):
    class Failing:
        def page(self) -> Document:
            raise StudyError("It is damaged.")

    path = draw.report(Found(), tmp_path / "report.html")
    before = path.read_bytes()
    with pytest.raises(StudyError, match="damaged"):
        draw.report(Failing(), path)
    assert path.read_bytes() == before


def test_what_cannot_be_written_or_shown_is_refused(tmp_path):
    with pytest.raises(ReadingError, match=r"ends in \.html"):
        draw.report(Found(), tmp_path / "report.pdf")
    with pytest.raises(ReadingError, match="not of a dict"):
        draw.report({}, tmp_path / "report.html")  # pyright: ignore[reportArgumentType]
    with pytest.raises(StudyError, match="holds no study"):
        draw.report(tmp_path, tmp_path / "report.html")
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(FileError):
        draw.report(Found(), tmp_path / "taken.html")
