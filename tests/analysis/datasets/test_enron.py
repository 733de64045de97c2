"""Messages in the form of the Enron corpus, all invented, and the rows that are made of them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from userdp.analysis.datasets import download, enron

HEAD = "Message-ID: <1.JavaMail.evans@thyme>\nDate: {date}\nFrom: {sender}\nTo: b.c@enron.com\n"
FIRST, LATER = "Mon, 5 Mar 2001 09:00:00 -0800 (PST)", "Tue, 6 Mar 2001 09:00:00 -0800 (PST)"


def message(body: str, sender="ann.lee@enron.com", subject="lunch", date=FIRST) -> bytes:
    head = HEAD.format(date=date, sender=sender)
    return f"{head}Subject: {subject}\nMime-Version: 1.0\n\n{body}".encode("latin-1")


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("shall we  meet at noon today?", "shall we meet at noon today?"),
        ("one two three four five\n\n\n\n\nsix\n", "one two three four five\n\nsix"),
        ("yes, of course\nI will\n\n -----Original Message-----\nSECRET", "yes, of course\nI will"),
        ("see the note below please\n> SECRET\n> SECRET", "see the note below please"),
        (
            "fine with me, thank you\n---------------------- Forwarded by X on 03/05/2001\nSECRET",
            "fine with me, thank you",
        ),
        ("fine with me, thank you\n\n\nX\n03/05/2001 09:12 AM\nTo: SECRET\nSECRET",
         "fine with me, thank you\n\n\nX\n03/05/2001 09:12 AM".replace("\n\n\n", "\n\n")),
        ("write to me at a.b@c.com or look at http://c.com/x y", "write to me at <email> or look at"
         " <url> y"),
        ("call me at 713-555-0100 or (713) 555-0101 or 1-713-555-0102",
         "call me at <phone> or <phone> or <phone>"),
        ("my number is 123-45-6789 as you know", "my number is <number> as you know"),
        ("here it is <b>at last</b> friend << File: SECRET.doc >>", "here it is at last friend"),
    ],
)  # fmt: skip
def test_what_the_sender_typed_is_kept_and_no_more(body, kept):
    mail = enron.parsed(message(body))
    assert mail is not None
    assert mail.text == f"Subject: lunch\n\n{kept}"
    assert "SECRET" not in mail.text


@pytest.mark.parametrize(
    "content",
    [
        message("one two three four"),
        message("one 22 333 4444 55555 666666 7777777"),
        message("one two three four five", sender="office.chairman@enron.com"),
        message("one two three four five", sender="ann.lee@other.com"),
        message("one two three four five", sender="hotline@enron.com"),
        message("one two three four five", subject="Out of Office AutoReply: lunch"),
        message("> one two three four five six"),
        b"",
    ],
)
def test_messages_of_no_person_or_without_a_text_are_left_out(content):
    assert enron.parsed(content) is None


def test_a_long_text_keeps_its_first_words():
    words = [f"word{'x' * (number % 3)}" for number in range(500)]
    mail = enron.parsed(message("\n".join(words)))
    assert mail is not None
    assert mail.text.split()[2:] == words[:400]


def test_users_are_numbered_by_hash_their_records_are_by_date_and_a_body_is_there_once():
    mails = [
        enron.parsed(message(body, sender=sender, date=date))
        for sender, body, date in [
            ("ann.lee@enron.com", "the second message of this user", LATER),
            ("bo.ray@enron.com", "the only message of that user", FIRST),
            ("ann.lee@enron.com", "the first message of this user", FIRST),
            ("cy.fox@enron.com", "The first message of this user, 2!", FIRST),
        ]
    ]
    rows = enron.rows(mail for mail in mails if mail is not None)
    order = sorted(
        ("ann.lee@enron.com", "bo.ray@enron.com"),
        key=lambda sender: hashlib.sha256(sender.encode()).hexdigest(),
    )
    texts = {
        "ann.lee@enron.com": ["the first message of this user", "the second message of this user"],
        "bo.ray@enron.com": ["the only message of that user"],
    }
    assert [(row["user_id"], row["text"].partition("\n\n")[2]) for row in rows] == [
        (f"user_000{number}", text) for number, user in enumerate(order) for text in texts[user]
    ]


def tree(folder: Path) -> Path:
    places = {
        "lee-a/inbox/1.": message("the first message in this inbox"),
        "lee-a/inbox/2.": message("the second message in this inbox", date=LATER),
        "lee-a/inbox/deals/3.": message("one that lies deeper than the inbox"),
        "lee-a/sent/4.": message("one that lies in another folder"),
    }
    for name, content in places.items():
        path = folder / "maildir" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "maildir"


def test_archive_and_folder_give_the_messages_of_the_inboxes(tmp_path, capsys):
    folder = tree(tmp_path)
    with tarfile.open(tmp_path / "mail.tar.gz", "w:gz") as archive:
        archive.add(folder, "maildir")
    for source, output in ((folder, "one"), (tmp_path / "mail.tar.gz", "two")):
        enron.main([str(tmp_path / output), "--source", str(source)])
    one, two = (tmp_path / name / "data.jsonl" for name in ("one", "two"))
    assert one.read_text() == two.read_text()
    texts = [json.loads(line)["text"] for line in one.read_text().splitlines()]
    assert texts == [
        f"Subject: lunch\n\nthe {n} message in this inbox" for n in ("first", "second")
    ]
    assert "1 users, 2 records" in capsys.readouterr().out


def test_a_download_is_checked_and_one_without_a_digest_is_told_its_own(tmp_path, capsys):
    original = tmp_path / "original"
    original.write_bytes(b"content")
    found = hashlib.sha256(b"content").hexdigest()
    for number, sha256 in enumerate((found, None, "0" * 64)):
        source = download.PublicSource(url=original.as_uri(), sha256=sha256, name=f"{number}.tgz")
        if sha256 == "0" * 64:
            with pytest.raises(download.SourceError, match=f"{found}, expected 000"):
                download.fetched(source, tmp_path / "new")
        else:
            assert download.fetched(source, tmp_path / "new").read_bytes() == b"content"
    assert capsys.readouterr().out.count(found) == 1
    assert not list(tmp_path.glob("new/*.part"))
