"""The Hugging Face Hub, as much of it as is needed: maps go up as a dataset, a published table or a model comes down.

The client is ``huggingface_hub``, and the token is looked up by it (``HF_TOKEN``, or what ``hf auth login`` stored);
no message of ours holds it. The client repeats single requests itself; ``upload`` repeats the whole call where that was
not enough, and what has arrived is not sent again. Every failure is one line that says what to do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipelines.errors import UserError, user_errors
from saliency.caches import cache_fault
from saliency.files import user_path
from saliency.table.card import TAGS
from saliency.table.manifest import read_manifest
from saliency.table.table import shard_files

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST = 96  # characters of a name
_ATTEMPTS = 5
_PAUSE = 2.0  # seconds before the second attempt; each further pause is twice as long
_NETWORK = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}  # what the client's errors may come from
_OVERLOADED = {408, 409, 412, 429, 500, 502, 503, 504}  # answers that may be another in a moment
_DOWNLOADED = ("data/*", "manifest.json")
_OF_A_MODEL = {kind: ("config.json", f"*.{kind}", f"*.{kind}.index.json") for kind in ("safetensors", "bin")}

T = TypeVar("T")

Kind = Literal["dataset", "space"]
"""What is uploaded."""


@dataclass(frozen=True)
class Remote:
    """A repository as it is on the Hub before an upload."""

    exists: bool
    private: bool = False
    ours: bool = True
    """Whether its card says that ``publish`` made it, or it is empty."""


def check_name(name: str) -> None:
    """UserError if a dataset can't be called so on the Hub."""
    odd = "--" in name or ".." in name or name.endswith((".git", "-", ".")) or "-/" in name or "./" in name
    if not _HUB_ID.fullmatch(name) or odd or max(map(len, name.split("/"))) > _LONGEST:
        raise UserError(f"{name!r} can't be a name on the Hub: it is user/name, of letters, digits, '-', '_' and '.'")


def check_login() -> None:
    """UserError if there is no way to upload from here: offline mode, or no token."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            "HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it, or look at the dataset with --dry-run FOLDER"
        )
    if get_token() is None:
        raise UserError(
            "there is no Hub token: run `hf auth login`, or set HF_TOKEN to one with write access "
            "(https://huggingface.co/settings/tokens); --dry-run FOLDER needs none"
        )


def look_up(name: str, kind: Kind = "dataset") -> Remote:
    """What a repository holds now. Raises UserError if the Hub can't be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    def ask() -> Remote:
        try:
            info = HfApi().space_info(name) if kind == "space" else HfApi().dataset_info(name)
        except RepositoryNotFoundError:
            return Remote(exists=False)
        files = {sibling.rfilename for sibling in info.siblings or []} - {".gitattributes"}
        return Remote(True, bool(info.private), not files or TAGS[0] in (info.tags or []))

    return _repeated(ask, name, kind)


def upload(folder: Path, name: str, *, private: bool, message: str, kind: Kind = "dataset") -> str:
    """Upload a folder as the dataset or Space ``name``, created if it is not there; returns its address.

    What the folder does not have any more is deleted in the same commit: of a dataset shards and previews, so that
    tables never mix, of a Space everything. Raises UserError.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="saliency-mae")

    def send() -> str:
        sdk = "docker" if kind == "space" else None
        repository = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True, space_sdk=sdk)
        api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            delete_patterns=["*"] if kind == "space" else ["data/*", "preview/*"],
        )
        return str(repository)

    return _repeated(send, name, kind)


def find_maps(place: str | Path) -> Path:
    """The folder of a table: a local one as it is, a Hub dataset id (``user/name``) downloaded into the Hub's cache.

    Raises UserError if the dataset can't be had, or not all of it.
    """
    name, folder = str(place), user_path(place)
    if not _is_remote(place):
        return folder
    found = _download(name, "dataset", _DOWNLOADED)
    with user_errors():
        manifest = read_manifest(found)
    if manifest is None:
        raise UserError(f"the Hub dataset {name} is no saliency table: it holds no manifest.json")
    missing = {shard.file for shard in manifest.shards} - {path.name for path in shard_files(found)}
    if missing:  # older clients give what they have when they are offline
        raise UserError(
            f"{len(missing)} of {len(manifest.shards)} shards of the Hub dataset {name} are not in the cache, first: "
            f"{min(missing)}; give it the network once, without HF_HUB_OFFLINE"
        )
    return found


def find_model(place: str | Path) -> Path:
    """The file or folder of a model: a local one as it is, a Hub model's (``user/name``) downloaded into the cache.

    Raises UserError if it can't be had.
    """
    if not _is_remote(place):
        return user_path(place)
    found = _download(str(place), "model", _OF_A_MODEL["safetensors"])
    return found if any(found.glob("model*.safetensors")) else _download(str(place), "model", _OF_A_MODEL["bin"])


def _is_remote(place: str | Path) -> bool:
    """Whether this can only be the name of a repository on the Hub."""
    folder = user_path(place)
    return not (folder.exists() or folder.parent.is_dir()) and _HUB_ID.fullmatch(str(place)) is not None


def _download(name: str, kind: str, patterns: Sequence[str]) -> Path:
    """The files of a repository, from the cache where they are in it. UserError."""
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(name, repo_type=kind, allow_patterns=list(patterns)))
    except (OSError, ValueError, RuntimeError) as error:
        if constants.HF_HUB_OFFLINE and not cache_fault(error):
            raise UserError(
                f"there is no folder {name}, and the Hub {kind} of this name is not whole in the cache: "
                "unset HF_HUB_OFFLINE once"
            ) from error
        raise _explained(error, name, kind) from error


def _repeated(call: Callable[[], T], name: str, kind: str = "dataset") -> T:
    """``call()``, up to five times where the network or the Hub failed; UserError for what can't be mended so."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return call()
        except (OSError, ValueError, RuntimeError) as error:
            if attempt == _ATTEMPTS or not _may_pass(error):
                raise _explained(error, name, kind) from error
        except Exception as error:  # the client's network errors have no base class that all its versions share
            if attempt == _ATTEMPTS or not _may_pass(error):
                if not _is_network(error):
                    raise
                raise _explained(error, name, kind) from error
        time.sleep(_PAUSE * 2 ** (attempt - 1))
    raise AssertionError


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    status = _status(error)
    return status in _OVERLOADED if status is not None else _is_network(error)


def _is_network(error: BaseException) -> bool:
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.partition(".")[0] in _NETWORK
        for cause in _causes(error)
    )


def _status(error: BaseException) -> int | None:
    """The status of the Hub's answer, if it answered."""
    for cause in _causes(error):
        response: Any = getattr(cause, "response", None)
        if getattr(response, "status_code", None) is not None:
            return int(response.status_code)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _explained(error: BaseException, name: str, kind: str = "dataset") -> UserError:
    """The one line for an error of the client."""
    from huggingface_hub.errors import RepositoryNotFoundError

    if fault := cache_fault(error, reading=True):
        return UserError(fault)
    status = _status(error)
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"there is no folder {name} here, and no {kind} of this name on the Hub that your token may see "
            "(log in with `hf auth login`)"
        )
    if status == 401:
        return UserError("the Hub does not know your token: run `hf auth login`, or set HF_TOKEN to a valid one")
    if status == 403:
        return UserError(
            f"your token may not write {name}: it needs write access, and the name before the slash must be yours or "
            "of an organisation that lets you (https://huggingface.co/settings/tokens)"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if status is None and _is_network(error):
        return UserError(
            f"the Hub can't be reached ({text}); run the same command again, what has arrived is not sent twice"
        )
    return UserError(f"the Hub refused {name}: {text}")
