"""`userdp push RUN REPOSITORY`: an adapter with its card and its evidence, to the Hugging Face hub.

A repository holds the adapter's folder at its root, so that peft loads it by name, and statement,
ledger and samples beside it. A run that does not verify is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import printable, shown
from userdp.sim.run_folder.layout import RunFolder
from userdp.sim.saved_run import ended_run

FLAGS = ("--private", "--dry-run", "--allow-not-private")
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_KEPT = (".gitattributes",)  # of a repository, which the hub itself writes


def main(arguments: Sequence[str], flags: Collection[str], api: Any = None) -> None:
    """Verify a run and upload it in one commit; with ``--dry-run`` only say what would be.

    Args:
        arguments: run folder and repository.
        flags: of `FLAGS`.
        api: of `huggingface_hub.HfApi`'s methods; None: that of this machine's account.

    Raises:
        ConfigurationError: an argument is wrong, the run does not verify, it is not private and
            ``--allow-not-private`` is not given, or the hub refuses.
    """
    if len(arguments) != 2 or not _REPOSITORY.fullmatch(arguments[1]):
        raise ConfigurationError(
            f"push {shown(' '.join(arguments))}: name a run folder and a repository, OWNER/NAME."
        )
    run = ended_run.read(Path(arguments[0]), "push")
    facts = ended_run.verified(run.folder, "push").statement
    if not facts["private"] and "--allow-not-private" not in flags:
        raise ConfigurationError(
            f"push: {run.folder.path}: it is NOT PRIVATE ({'; '.join(facts['reasons'])}); whoever "
            "reads the adapter may read users' records in it; --allow-not-private uploads it so."
        )
    repository, found = arguments[1], files(run.folder)
    secrecy = "private" if "--private" in flags else "public"
    for name, path in found.items():
        print(f"{path.stat().st_size:>12,}  {printable(name)}")
    print(ended_run.told(facts))
    if "--dry-run" in flags:
        print(f"dry run: nothing was sent to the {secrecy} repository {repository}")
        return
    url = _upload(_api(api), repository, found, private="--private" in flags)
    print(f"{secrecy} repository: {printable(url)}")


def files(run: RunFolder) -> dict[str, Path]:
    """What is uploaded: path in the repository -> file, sorted."""
    inside = {
        path.relative_to(run.adapter).as_posix(): path
        for path in run.adapter.rglob("*")
        if path.is_file()
    }
    beside = [run.statement, run.ledger, *([run.samples] if run.samples.is_file() else [])]
    return dict(sorted({**inside, **{path.name: path for path in beside}}.items()))


def _upload(api: Any, repository: str, found: dict[str, Path], *, private: bool) -> str:
    """Put these files, and no others, into the repository; returns its address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # slow to import

    _asked(lambda: api.create_repo(repository, private=private, exist_ok=True), repository)
    there = _asked(lambda: api.list_repo_files(repository), repository)
    old = [name for name in there if name not in found and name not in _KEPT]
    operations = [
        *(CommitOperationAdd(name, str(path)) for name, path in found.items()),
        *(CommitOperationDelete(name) for name in old),
    ]
    commit = {"commit_message": "Adapter with its privacy statement, by userdp push"}
    _asked(lambda: api.create_commit(repository, operations, **commit), repository)
    return f"https://huggingface.co/{repository}"


def _api(api: Any) -> Any:
    if api is not None:
        return api
    from huggingface_hub import HfApi

    return HfApi()


def _asked(call: Callable[[], Any], repository: str) -> Any:
    """The answer of the hub.

    Raises:
        ConfigurationError: it refuses, or is not reached; the library's text may hold a token's
            owner or an address, and is left out.
    """
    try:
        return call()
    except Exception as error:  # of the library, the network or the account
        status = getattr(getattr(error, "response", None), "status_code", None)
        told = type(error).__name__ + (f", status {status}" if status is not None else "")
        raise ConfigurationError(
            f"push: {repository}: the hub did not take it ({told}); log in by hf auth login, or "
            "set HF_TOKEN, with the right to write there."
        ) from None
