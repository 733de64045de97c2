"""Makes enron_senders: what employees wrote, from the inboxes of the Enron corpus, by sender.

    python -m userdp.analysis.datasets.enron enron_senders

The source is the corpus as CMU publishes it, 517,401 files in 150 mailboxes; read are the messages
that lie in an inbox itself. It is real persons' mail: what is made of it stays on your machine.

A user is an address of the form first.last@enron.com, numbered in the order of the addresses'
hashes. A record is the subject and what the sender typed: what is quoted or forwarded, mark-up and
notes about attachments are cut, and addresses, links and numbers of persons are replaced.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from userdp.analysis.datasets import download, holding_out

SOURCE = download.PublicSource(
    url="https://www.cs.cmu.edu/~enron/enron_mail_20150507.tar.gz",
    sha256="b3da1b3fe0369ec3140bb4fbce94702c33b7da810ec15d718b3fadf5cd748ca7",
    name="enron_mail_20150507.tar.gz",
)
_FEWEST, _MOST = 5, 400  # words of a record
_PERSON = re.compile(r"[a-z][a-z'-]*\.[a-z.'-]*[a-z]@enron\.com")
_ROLES = {  # parts of an address of an office, a programme or a list
    *("announcements", "admin", "center", "chairman", "desk", "enron", "group", "help", "info"),
    *(
        "mail",
        "mailman",
        "mgr",
        "news",
        "office",
        "operations",
        "perfmgmt",
        "postmaster",
        "resources",
    ),
    *("schedule", "schedules", "services", "support", "system", "team", "technology", "the"),
}
_AUTOMATIC = re.compile(
    r"out of office|autoreply|auto-reply|undeliverable|delivery (failure|status)|read:|"
    r"notification|schedule crawler|start date:|expense report|approval is overdue",
    re.IGNORECASE,
)
_CUT = re.compile(  # from here on the text is another person's
    r"^\s*(>|-+\s*original message|-+\s*forwarded by|-+\s*inline attachment|"
    r"(from|to):\s.*|\S.*\bon \d\d/\d\d/\d{2,4} \d\d:\d\d|.*\bwrote:\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_NOTES = re.compile(r"<<.*?>>|\(see attached file:.*?\)|<[a-z/!][^>]*>", re.IGNORECASE | re.DOTALL)
_REPLACED = (
    (re.compile(r"[\w.+'-]+@[\w-]+(\.[\w-]+)+"), "<email>"),
    (re.compile(r"(https?://|www\.)\S+", re.IGNORECASE), "<url>"),
    (re.compile(r"\b\d{3}-\d{2}-\d{4}\b"), "<number>"),
    (re.compile(r"(\+?1[ .-]?)?(\(\d{3}\)\s*|\b\d{3}[ .-])\d{3}[ .-]\d{4}\b"), "<phone>"),
)


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One message: who sent it, when, and what is kept of it."""

    sender: str
    seconds: float
    text: str


def parsed(content: bytes) -> Mail | None:
    """What is kept of a message; None if it is of no person, automatic, or too short."""
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    sender = str(message.get("From", "")).strip().lower()
    subject = " ".join(str(message.get("Subject", "")).split())
    parts = set(sender.partition("@")[0].split("."))
    if not _PERSON.fullmatch(sender) or parts & _ROLES or _AUTOMATIC.search(subject):
        return None
    body = message.get_payload(decode=True)
    text = typed(body.decode("latin-1") if isinstance(body, bytes) else "")
    if len(text.split()) < _FEWEST or _mostly_figures(text):
        return None
    whole = f"Subject: {_anonymous(subject)}\n\n{text}" if subject else text
    return Mail(sender=sender, seconds=_seconds(message), text=whole)


def typed(body: str) -> str:
    """What the sender typed, without what others wrote, in at most so many words."""
    text = body.replace("\r\n", "\n")
    if found := _CUT.search(text):
        text = text[: found.start()]
    lines = [" ".join(line.split()) for line in _NOTES.sub(" ", text).split("\n")]
    text = _anonymous(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip())
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    return text if len(ends) <= _MOST else text[: ends[_MOST - 1]]


def rows(mails: Iterable[Mail]) -> list[dict[str, str]]:
    """The rows of all users, each user's by date; of equal bodies, the first is kept."""
    kept: list[Mail] = []
    seen = set()
    for mail in mails:
        letters = re.sub(r"[\W\d_]", "", mail.text.partition("\n\n")[2] or mail.text).lower()
        if letters not in seen:
            seen.add(letters)
            kept.append(mail)
    senders = sorted({mail.sender for mail in kept}, key=_hash)
    numbers = {sender: number for number, sender in enumerate(senders)}
    kept.sort(key=lambda mail: (numbers[mail.sender], mail.seconds))
    return [{"user_id": f"user_{numbers[mail.sender]:04}", "text": mail.text} for mail in kept]


def messages(source: Path) -> Iterator[bytes]:
    """The messages that lie in an inbox itself, of the archive or of ``maildir``, by path."""
    yield from (content for _, content in sorted(download.files(source, "*/inbox/*")))


def _anonymous(text: str) -> str:
    for pattern, word in _REPLACED:
        text = pattern.sub(word, text)
    return text


def _mostly_figures(text: str) -> bool:
    signs = [sign for sign in text if not sign.isspace()]
    return sum(sign.isalpha() for sign in signs) < len(signs) / 2


def _seconds(message: EmailMessage | email.message.Message) -> float:
    try:
        return email.utils.parsedate_to_datetime(str(message.get("Date"))).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _hash(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def main(given: Sequence[str] | None = None) -> None:
    """Write ``data.jsonl`` into a folder.

    Raises:
        SourceError: the source is not the published archive, or holds no message.
    """
    options = download.arguments(__doc__ or "", given, "the archive, or its folder maildir")
    source = options.source or download.fetched(SOURCE, options.output)
    made = rows(mail for content in messages(source) if (mail := parsed(content)) is not None)
    if not made:
        raise download.SourceError(f"{source}: no message of an inbox is in it.")
    download.write(options.output / "data.jsonl", holding_out.with_split(made), None)


if __name__ == "__main__":
    download.run(main)
