"""The Hugging Face Hub as a place for what mechmask saves: a sealed directory is a repository, with a card for people.

Both directions are huggingface_hub's own calls, so that ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the cache
mean what they mean elsewhere. Only files that the seal names are fetched: a repository of another kind is refused
before anything large comes down. What is in a directory, rooms above know.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mechmask.errors import MechmaskError
from mechmask.file_errors import file_errors
from mechmask.files import CARD, MANIFEST, sealed_names
from mechmask.hub_card import Card

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

RepoType = Literal["model", "dataset"]

_LIBRARY = "mechmask"
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def push(
    write: Callable[[Path], object],
    card: Card,
    repo_id: str,
    *,
    repo_type: RepoType,
    refusal: type[MechmaskError],
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Save something and make a repository of it, in one commit.

    Args:
        write: saves it into a new directory, sealed.
        card: what the repository says of it.
        repo_id: ``owner/name``; made if it is not there. What mechmask saved there before is replaced, its card too;
            the repository's history keeps both.
        repo_type: ``model`` or ``dataset``.
        refusal: the class of the error.
        revision: a branch, made if it is not there; the main one by default.
        private: whether a new repository is; the owner's default otherwise.
        token: of the Hub; the one that is logged in by default.
        commit_message: of the commit.

    Returns:
        The commit's hash, which the loaders take as ``revision``.

    Raises:
        MechmaskError: of class ``refusal``, if the repository holds something that mechmask did not save, or the Hub
            refuses.
        FileError: if there is no room to save it first.
    """
    from huggingface_hub import HfApi

    _require_id(repo_id, refusal)
    api = HfApi(token=token, library_name=_LIBRARY)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "saved"
        write(folder)
        with file_errors(folder / CARD):
            (folder / CARD).write_bytes(card.text(repo_type).encode("utf-8", "backslashreplace"))
        try:
            api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
            info = api.dataset_info if repo_type == "dataset" else api.model_info
            there = info(repo_id, revision=revision)
            commit = api.create_commit(  # upload_folder may make several, of which a reader would see the first alone
                repo_id,
                _replacing(folder, [file.rfilename for file in there.siblings or ()], repo_id, refusal),
                commit_message=commit_message or f"Upload {card.kind} with mechmask",
                repo_type=repo_type,
                revision=revision,
                parent_commit=there.sha,
            )
        except MechmaskError:
            raise
        except Exception as error:  # of the Hub, of its HTTP client, of the network
            raise refusal(
                f"The {card.kind} cannot be pushed to {repo_id} ({_first_line(error)}). Check the name, that you are "
                "logged in (hf auth login, or token=) with a token that may write there, and the network."
            ) from error
    return commit.oid


def located(
    source: str | Path,
    what: str,
    *,
    repo_type: RepoType,
    refusal: type[MechmaskError],
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """Where something saved lies: the path, if there is anything, else the snapshot of the repository of that id.

    Args:
        source: a path, or the id of a repository.
        what: it should be, such as "a change".
        repo_type: ``model`` or ``dataset``.
        refusal: the class of the error.
        revision: a branch, tag or commit of a repository.
        token: of the Hub; the one that is logged in by default.

    Returns:
        The path, or a directory in huggingface_hub's cache that has the sealed files; whoever reads it holds them
        against the seal.

    Raises:
        MechmaskError: of class ``refusal``, if there is neither, the Hub cannot be reached and the cache has nothing,
            or the repository holds nothing that mechmask saved.
        FileError: if the path cannot be looked at.
    """
    path = Path(source)
    with file_errors(path, "read"):
        there = path.exists()
    if there and revision is not None:
        raise refusal(f"{path} is on this machine, and has no revisions. Leave revision out, or give the Hub's id.")
    if there:
        return path
    if isinstance(source, Path) or not is_id(source):
        raise refusal(
            f"There is no {_shown(source)}, and it is no id of a repository on the Hub (owner/name) that could hold "
            f"{what}. Check the path."
        )
    return pulled(source, what, repo_type=repo_type, refusal=refusal, revision=revision, token=token)


def pulled(
    repo_id: str,
    what: str,
    *,
    repo_type: RepoType,
    refusal: type[MechmaskError],
    revision: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """The sealed files of a repository, as ``located`` gives them.

    Raises:
        MechmaskError: as ``located``.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    asked = {"repo_type": repo_type, "token": token, "library_name": _LIBRARY}
    try:
        manifest = Path(hf_hub_download(repo_id, MANIFEST, revision=revision, **asked))
        names = _safe_names(manifest.parent, _named(repo_id, revision), refusal)
        commit = manifest.parent.name  # the same one for all files, whatever is pushed meanwhile
        wanted = [escape(name) for name in (MANIFEST, *names)]
        return Path(snapshot_download(repo_id, revision=commit, allow_patterns=wanted, **asked))
    except MechmaskError:
        raise
    except Exception as error:  # of the Hub, of its HTTP client, of the network, of the cache
        raise refusal(_why_not(error, repo_id, revision, what, repo_type)) from error


def is_id(source: str) -> bool:
    """Whether a text has the form of a repository's id, ``owner/name``."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return source.count("/") == 1


def _require_id(repo_id: str, refusal: type[MechmaskError]) -> None:
    if not isinstance(repo_id, str) or not is_id(repo_id):
        raise refusal(f"{_shown(repo_id)} is no id of a repository. Give owner/name: letters, digits, -, _ and dots.")


def _safe_names(directory: Path, named: str, refusal: type[MechmaskError]) -> list[str]:
    """The files that a repository's seal names, none of which may be a pickle."""
    names = sealed_names(directory)
    if names is None:
        raise refusal(f"{MANIFEST} of {named} is damaged. Push it again from where it is whole.")
    if pickled := next((name for name in names if name.lower().endswith(_PICKLES)), None):
        raise refusal(f"{named} holds {pickled}, a pickle, which is not taken from the Hub. Push it with push_to_hub.")
    return names


def _replacing(
    folder: Path, there: list[str], repo_id: str, refusal: type[MechmaskError]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What puts a folder's files in the place of an earlier push; a repository that holds something else is refused."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    others = [name for name in there if name != CARD and not name.startswith(".")]
    if others and MANIFEST not in others:
        raise refusal(
            f"{repo_id} holds files that mechmask did not save (such as {others[0]}), and pushing would replace them. "
            "Give another name, or another branch as revision."
        )
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    gone = [CommitOperationDelete(path_in_repo=name) for name in others if name not in files]
    return [*gone, *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items())]


def _why_not(error: Exception, repo_id: str, revision: str | None, what: str, repo_type: RepoType) -> str:
    """One sentence for whatever huggingface_hub raises where something cannot be had."""
    from huggingface_hub import constants, errors

    named = _named(repo_id, revision)
    if isinstance(error, errors.GatedRepoError):
        return f"{named} asks for consent to its terms. Give it on the Hub's page, and log in with hf auth login."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}. Give a branch, tag or commit that it has."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no path {repo_id} here, and no {repo_type} of that id on the Hub that may be seen. Check the "
            "name; where it is private, log in with hf auth login, or give token."
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        cause = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the Hub cannot be reached"
        return (
            f"There is no path {repo_id} here; as an id of the Hub, {named} is not in the cache and {cause}. Check the "
            "path, or ask again with a connection."
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{named} does not hold {what} that mechmask saved: it has no {MANIFEST}. Give another repository."
    return f"{named} cannot be read from the Hub ({_first_line(error)}). Try again, or check the free space."


def _named(repo_id: str, revision: str | None) -> str:
    return repo_id if revision is None else f"{repo_id} at {revision}"


def _shown(source: object) -> str:
    text = os.fspath(source) if isinstance(source, str | Path) else repr(source)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
