"""Files and directories that come whole or not at all."""

import os
import subprocess
import sys

import pytest

from mechmask.files import new_directory, replaced_file, write_text


class _StopError(Exception):
    pass


def _names(directory):
    return sorted(p.name for p in directory.iterdir())


@pytest.fixture
def umask_027():
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replaced_file(path) as temporary:
        assert temporary.parent == tmp_path, "on the same disk, so that the replacement is atomic"
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert _names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [_StopError, KeyboardInterrupt, SystemExit])
def test_a_file_keeps_its_content_when_the_block_raises(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replaced_file(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_a_file_that_was_not_there_is_not_there_after_an_error(tmp_path):
    with pytest.raises(_StopError), replaced_file(tmp_path / "deep" / "a.txt"):
        raise _StopError
    assert _names(tmp_path / "deep") == []


def test_directories_above_a_file_are_made(tmp_path):
    write_text(tmp_path / "x" / "y" / "a.txt", "日本\n")
    assert (tmp_path / "x" / "y" / "a.txt").read_bytes() == "日本\n".encode()


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_a_process_that_dies_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, sys, pathlib\n"
        "from mechmask.files import replaced_file\n"
        "with replaced_file(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_text() == "old"


def test_a_file_is_as_readable_as_the_umask_says(tmp_path, umask_027):
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert os.umask(0o027) == 0o027, "the umask is as it was"


def test_a_directory_appears_whole(tmp_path):
    path = tmp_path / "up" / "d"
    with new_directory(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert _names(tmp_path / "up") == ["d"]
    assert _names(path) == ["a"]


@pytest.mark.parametrize("error", [_StopError, KeyboardInterrupt])
def test_a_directory_does_not_appear_when_the_block_raises(error, tmp_path):
    with pytest.raises(error), new_directory(tmp_path / "d") as temporary:
        (temporary / "a").mkdir()
        raise error
    assert _names(tmp_path) == []


def test_a_rival_that_made_the_directory_first_keeps_it(tmp_path):
    with new_directory(tmp_path / "d") as temporary:
        (temporary / "mine").write_text("1")
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "theirs").write_text("2")
    assert _names(tmp_path) == ["d"]
    assert _names(tmp_path / "d") == ["theirs"]


def test_an_error_beside_a_rival_leaves_the_rival(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "theirs").write_text("2")
    with pytest.raises(_StopError), new_directory(tmp_path / "d"):
        raise _StopError
    assert _names(tmp_path) == ["d"]
    assert _names(tmp_path / "d") == ["theirs"]


def test_a_file_in_the_place_of_a_directory_is_an_error_and_stays(tmp_path):
    (tmp_path / "d").write_text("a file")
    with pytest.raises(OSError), new_directory(tmp_path / "d"):
        pass
    assert (tmp_path / "d").read_text() == "a file"
    assert _names(tmp_path) == ["d"]


def test_a_directory_is_as_readable_as_the_umask_says(tmp_path, umask_027):
    with new_directory(tmp_path / "d"):
        pass
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750
