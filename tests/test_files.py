"""Files and directories that come whole or not at all, are sealed, and fail in one sentence."""

import json
import os
import subprocess
import sys

import pytest
import xxhash

from mechmask.errors import ChangeError, DamageError, FileError, MechmaskError
from mechmask.file_errors import file_errors
from mechmask.files import content_digest, new_directory, replaced_file, require_sealed, seal, write_text


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


@pytest.mark.parametrize("before", ["temporary.rename(path)", "_sync_tree(temporary)"])
def test_a_process_that_dies_leaves_no_directory(before, tmp_path):
    code = (
        "import os, sys, pathlib, mechmask.files as files\n"
        f"source = pathlib.Path(files.__file__).read_text().replace({before!r}, 'os._exit(9)')\n"
        "exec(compile(source, 'files', 'exec'), vars(files))\n"
        "with files.new_directory(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'a').write_text('whole')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], check=False).returncode == 9
    assert not (tmp_path / "d").exists()


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
    with pytest.raises(OSError, match=r"File exists\. Choose a name that is not taken"), new_directory(tmp_path / "d"):
        pass
    assert (tmp_path / "d").read_text() == "a file"
    assert _names(tmp_path) == ["d"]


def test_a_directory_is_as_readable_as_the_umask_says(tmp_path, umask_027):
    with new_directory(tmp_path / "d"):
        pass
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o750


# what the file system refuses: mechmask/file_errors.py


def test_a_name_of_255_bytes_is_written_and_a_longer_one_refused_before_any_work(tmp_path):
    longest = tmp_path / ("é" * 124 + ".tar.gz")  # 255 bytes
    write_text(longest, "x")
    with new_directory(tmp_path / ("d" * 255)):
        pass
    assert longest.read_text() == "x"
    for into in (replaced_file, new_directory):
        with pytest.raises(FileError, match=r"^Cannot write .*: File name too long\. Choose a shorter name\.$"):
            into(tmp_path / ("a" * 256)).__enter__()
    assert len(_names(tmp_path)) == 2


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), lambda path: new_directory(path).__enter__()])
def test_a_parent_that_is_a_file_is_named(write, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(FileError) as caught:
            write(path)
        assert str(caught.value).startswith(f"Cannot write {path}: ")
        assert str(caught.value).endswith("Choose a path of which every parent is a directory.")
    assert isinstance(caught.value, MechmaskError)
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_in_the_place_of_a_file_is_an_error_and_stays(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(FileError, match=r"Is a directory\. Choose the name of a file"):
        write_text(tmp_path / "d", "x")
    assert _names(tmp_path) == ["d"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused_printably(name, tmp_path):
    with pytest.raises(FileError, match="no file can have this name") as caught:
        write_text(tmp_path / name, "x")
    str(caught.value).encode("utf-8")


def test_text_that_is_not_utf8_is_not_blamed_on_the_name(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError), file_errors(tmp_path / "a", "read"):
        (tmp_path / "a").read_text(encoding="utf-8")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("into", [replaced_file, new_directory])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(into, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    target = tmp_path / ("a.txt" if into is replaced_file else "d")
    with pytest.raises(FileError) as caught, into(target), open("/dev/full", "wb") as disk:  # noqa: PTH123
        disk.write(b"x")
        disk.flush()
    assert str(caught.value) == (
        f"Cannot write {target}: No space left on device. Free some space, or choose another disk."
    )
    assert (tmp_path / "a.txt").read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


# each writes some 80 kB to sys.argv[1] where files may have 20 kB
_WRITERS = {
    "bytes": "write_text(path, 'x' * 80_000)",
    "safetensors": (
        "with replaced_file(path) as temporary:\n"
        "    from safetensors.numpy import save_file\n"
        "    save_file({'a': numpy.zeros(10_000)}, temporary)"
    ),
    "netCDF": (
        "with replaced_file(path) as temporary:\n"
        "    import xarray\n"
        "    xarray.Dataset({'a': ('x', numpy.random.rand(10_000))}).to_netcdf(temporary, engine='h5netcdf')"
    ),
}


@pytest.mark.parametrize("write", _WRITERS.values(), ids=_WRITERS.keys())
def test_writers_in_c_and_rust_report_a_full_disk_in_the_same_sentence(write, tmp_path):
    resource = pytest.importorskip("resource")
    code = (
        "import resource, sys, pathlib, numpy\n"
        "from mechmask.errors import FileError\n"
        "from mechmask.files import replaced_file, write_text\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, {resource.RLIM_INFINITY}))\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try:\n" + "".join(f"    {line}\n" for line in write.splitlines()) + "except FileError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == f"Cannot write {tmp_path / 'a'}: File too large. Choose another disk.", done.stderr
    assert _names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "d").mkdir(mode=0o500)
    with pytest.raises(FileError, match=r"Permission denied\. Choose a place that you may write to"):
        write_text(tmp_path / "d" / "a", "x")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "elsewhere"),
        PermissionError(13, "Denied", "/x"),
        PermissionError(13, "Denied"),
        ValueError("mine"),
    ],
)
def test_an_error_that_is_not_about_the_file_passes_unchanged(error, tmp_path):
    for into in (replaced_file, new_directory):
        with pytest.raises(type(error)) as caught, into(tmp_path / "a"):
            raise error
        assert caught.value is error


# digests


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_digest_is_that_of_the_whole_content(size, tmp_path):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert content_digest(tmp_path / "a") == content_digest(str(tmp_path / "a")) == xxhash.xxh3_128_hexdigest(content)


def test_a_file_that_is_not_there_has_no_digest(tmp_path):
    with pytest.raises(FileError, match=r"^Cannot read .*a: No such file or directory\."):
        content_digest(tmp_path / "a")


_CONTENT = {"change.json": b'{"a": 1}', "weights.bin": bytes(range(256)), "deep/er/日本.txt": b"x", "empty": b""}


@pytest.fixture
def sealed(tmp_path):
    directory = tmp_path / "sealed"
    with new_directory(directory) as temporary:
        for name, content in _CONTENT.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        seal(temporary)
    return directory


def _require(directory, **options):
    return require_sealed(directory, "The change", "Make it again.", **options)


def test_a_sealed_directory_is_whole_wherever_it_is_moved(sealed, tmp_path):
    assert _require(sealed)
    sealed.rename(tmp_path / "elsewhere")
    assert _require(str(tmp_path / "elsewhere"), missing="accept")


def test_the_manifest_is_the_same_whatever_the_order_of_writing(sealed, tmp_path):
    for name, content in reversed(_CONTENT.items()):
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    seal(tmp_path / "again")
    seal(tmp_path / "again")
    text = (tmp_path / "again" / "digests.json").read_bytes()
    assert text == (sealed / "digests.json").read_bytes()
    assert list(json.loads(text)["files"]) == sorted(_CONTENT)


def _flipped(content):
    """The content with one bit changed, for every eighth bit of it."""
    for bit in range(0, 8 * len(content), 8):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << (bit // 8 % 8)
        yield bytes(altered)


@pytest.mark.parametrize("name", [*_CONTENT, "digests.json"])
def test_each_file_cut_emptied_flipped_grown_and_removed_is_named(name, sealed):
    path = sealed / name
    content = path.read_bytes()
    versions = [content[:-1], b"", content + b"\n", *_flipped(content)]
    for damaged in filter(lambda version: version != content, versions):
        path.write_bytes(damaged)
        for missing in ("refuse", "accept"):
            with pytest.raises(DamageError) as caught:
                _require(sealed, missing=missing)
            message = str(caught.value)
            assert message.startswith(f"The change in {sealed} is damaged: {name} is ")
            assert message.endswith(". Make it again.")
            assert message.count(";") == 0, "nothing else is blamed"
    path.unlink()
    with pytest.raises(DamageError, match=f"{name} is missing|has no {name}"):
        _require(sealed)
    path.write_bytes(content)
    assert _require(sealed)


def test_cut_and_altered_are_told_apart(sealed):
    (sealed / "change.json").write_bytes(b'{"a"')
    (sealed / "weights.bin").write_bytes(b"\1" * 256)
    (sealed / "stranger").write_bytes(b"")
    (sealed / "empty").unlink()
    with pytest.raises(DamageError) as caught:
        _require(sealed)
    assert str(caught.value) == (
        f"The change in {sealed} is damaged: change.json is cut (4 of 8 bytes); empty is missing; stranger was not "
        "there when it was written; and 1 more. Make it again."
    )


def test_a_directory_without_manifest_is_the_callers_choice(sealed):
    (sealed / "digests.json").unlink()
    assert _require(sealed, missing="accept") is False
    with pytest.raises(ChangeError, match=r"has no digests\.json, so it may be damaged\. Make it again\."):
        _require(sealed, error=ChangeError)


def test_hidden_files_are_no_content(sealed):
    (sealed / ".lock").write_text("")
    (sealed / ".ipynb_checkpoints").mkdir()
    (sealed / ".ipynb_checkpoints" / "a").write_text("")
    assert _require(sealed)


def test_a_directory_below_that_has_a_manifest_of_its_own_is_sealed_with_it(sealed, tmp_path):
    seal(tmp_path)
    assert _require(tmp_path)
    (sealed / "digests.json").write_text("{}")
    with pytest.raises(DamageError, match=r"sealed/digests\.json is cut"):
        _require(tmp_path)


def test_links_are_followed_to_files_and_missed_when_broken(sealed, tmp_path):
    (tmp_path / "blob").write_bytes(b"blob")
    (sealed / "link").symlink_to(tmp_path / "blob")
    seal(sealed)
    assert _require(sealed)
    (tmp_path / "blob").write_bytes(b"blub")
    with pytest.raises(DamageError, match="link is altered"):
        _require(sealed)
    (tmp_path / "blob").unlink()
    with pytest.raises(FileError, match=r"Cannot read .*link"):
        _require(sealed)


_NO_MANIFESTS = {
    "a list": b"[]",
    "nested deeply": b"[" * 100_000,
    "a number of 5,000 digits": b'{"files": ' + b"1" * 5000 + b"}",
    "no text": b"\xff\xfe",
    "entries that are none": b'{"files": {"empty": 3}}',
    "without its digest": b'{"files": {}}',
}


@pytest.mark.parametrize("text", _NO_MANIFESTS.values(), ids=_NO_MANIFESTS.keys())
def test_a_manifest_that_is_none_is_named(text, sealed):
    (sealed / "digests.json").write_bytes(text)
    with pytest.raises(DamageError, match=r"digests\.json is altered"):
        _require(sealed)
