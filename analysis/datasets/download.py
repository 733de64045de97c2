"""Gets a public source, checks its digest, and writes what is made of it with a digest of its own.

A digest that is known is compared; one that is not is printed, so that it can be noted. What a
script makes is compared with the set of the docs' results where its digest is known: the same
digest is the same set, whatever the archive around it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from userdp.sim.common import durable_file


class SourceError(Exception):
    """A source that is not what it should be, in one line."""


@dataclass(frozen=True, kw_only=True)
class PublicSource:
    """Where the original is, and what it should be.

    Args:
        url: of the file.
        sha256: of the file, in hexadecimal digits; None where none is known.
        name: of the file on this machine.
    """

    url: str
    sha256: str | None
    name: str


def github(repository: str, commit: str, name: str) -> PublicSource:
    """The files of a repository at a commit, whose id is itself a hash of all of them.

    The archive is made anew by the server for each download, so it has no digest to rely on: what
    is made of it has one.
    """
    url = f"https://codeload.github.com/{repository}/tar.gz/{commit}"
    return PublicSource(url=url, sha256=None, name=name)


def arguments(doc: str, given: Sequence[str] | None, source: str) -> argparse.Namespace:
    """The arguments of a script: the folder to write, and what was downloaded already.

    Args:
        doc: of the script.
        given: of the command line; None: those of the process.
        source: what ``--source`` may be.

    Returns:
        ``output`` and ``source``, both paths; ``source`` is None if it is to be downloaded.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("output", type=Path, help="a folder, made if there is none")
    parser.add_argument("--source", type=Path, help=f"{source}; downloaded if left out")
    return parser.parse_args(given)


def fetched(source: PublicSource, folder: Path) -> Path:
    """The file of a source in a folder, downloaded unless it is there, and checked.

    Raises:
        SourceError: its digest is another one.
    """
    path = folder / source.name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        with urllib.request.urlopen(source.url) as content, unfinished.open("wb") as file:
            shutil.copyfileobj(content, file)
        unfinished.rename(path)
    check(path, source.sha256)
    return path


def check(path: Path, sha256: str | None) -> None:
    """Compare the digest of a file with the known one, or print it.

    Raises:
        SourceError: it differs.
    """
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 is None:
        print(f"{path}: sha256 {found}; none is known to compare it with")
    elif found != sha256:
        raise SourceError(f"{path}: sha256 {found}, expected {sha256}; download it again.")


def files(source: Path, pattern: str) -> Iterator[tuple[Path, bytes]]:
    """Path and content of each file of an archive or a folder that matches a pattern.

    Args:
        source: a tar archive, compressed or not, or a folder.
        pattern: of a path below it, as `pathlib.PurePath.match` takes it.
    """
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            inside = path.relative_to(source)
            if path.is_file() and inside.match(pattern):
                yield inside, path.read_bytes()
        return
    with tarfile.open(source) as archive:
        for member in archive:
            path = Path(member.name)
            if path.match(pattern) and (content := archive.extractfile(member)):
                yield path, content.read()


def write(path: Path, rows: Iterable[dict[str, str]], expected: str | None) -> None:
    """Write rows as jsonl, and say whether they are the users and texts of the docs' results.

    Args:
        expected: `digest` of the rows of the docs' results; None where it cannot be the same.
    """
    kept = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable_file.text(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    users = len({row["user_id"] for row in kept})
    print(f"{path}: {users:,} users, {len(kept):,} records, digest {digest(kept)}")
    if expected is not None:
        same = digest(kept) == expected
        print("these are" if same else "NOT", "the users and texts of the docs' results")


def digest(rows: Iterable[dict[str, str]]) -> str:
    """A hash of users and texts in their order; the split does not count."""
    found = hashlib.sha256()
    for row in rows:
        found.update((json.dumps([row["user_id"], row["text"]]) + "\n").encode())
    return found.hexdigest()


def run(main: Callable[[], None]) -> None:
    """Run a script's main function; a wrong source is one line and exit code 2."""
    try:
        main()
    except SourceError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
