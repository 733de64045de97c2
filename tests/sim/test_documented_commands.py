"""Every command of README and docs is one: its words parse, and figures that it prints are kept."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest

from userdp.analysis.audit import options as audit_options
from userdp.analysis.benchmark import cases
from userdp.analysis.comparison import jobs
from userdp.sim import cli
from userdp.sim.config import command_options, hydra_compose
from userdp.sim.data.sources.shard import DESCRIPTION, Shard
from userdp.sim.federation import node, shard, up, words

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FEDERATION = {"shard": shard.ShardOptions, "up": up.UpOptions, "node": node.NodeOptions}
VERBS = set(re.findall(r"^  userdp (\w+)", cli.HELP, re.MULTILINE))
COMMAND = re.compile(rf"\s*(?:\$ )?(userdp (?:{'|'.join(VERBS)})\b.*)")
SHOWN = re.compile(r"^\$ ", re.MULTILINE)  # a block that shows what is printed, too
FAST = {"README.md", "data.md", "models.md"}  # the other pages take a minute


class Block(NamedTuple):
    """A command of a page, and the lines that the page prints under it."""

    page: str
    command: str
    printed: list[str]


def blocks(page: Path) -> Iterator[Block]:
    """The commands of fenced and indented blocks, with variables and continued lines put in."""
    text = page.read_text()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    userdp .*\n)+", text, re.MULTILINE)
    for block in [*fenced, *indented]:
        variables: dict[str, str] = {}
        found: Block | None = None
        for line in block.replace("\\\n", " ").splitlines():
            if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[f"${assigned[1]}"] = with_values(assigned[2], variables)
            elif (command := COMMAND.match(line)) and bool(SHOWN.search(block)) == (line[0] == "$"):
                if found:
                    yield found
                found = Block(page.name, with_values(command[1], variables), [])
            elif found:
                found.printed.append(line)
        if found:
            yield found


def inline(page: Path) -> Iterator[str]:
    """The commands between backquotes that have words."""
    for found in re.findall(r"`(userdp [^`]+)`", page.read_text()):
        command = " ".join(found.split())
        if "\\" not in command:  # part of a command, in a cell of a table
            yield command


def with_values(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\w+", lambda name: variables.get(name[0], name[0]), text)


def arguments(command: str) -> list[str]:
    """The words after ``userdp``, without comments and redirections, with N as a number."""
    found = shlex.split(re.split(r"\s[|>]\s", command)[0], comments=True)[1:]
    launcher = ("hydra/launcher=", "hydra.launcher.")  # of an extra, which may not be installed
    kept = [word for word in found if not word.startswith(("[", *launcher))]
    return [re.sub(r"=[Nn]$", "=1000", word) for word in kept if not word.endswith("...")]


def check(command: str) -> None:
    """Parse the words of a command as the command does; nothing is run."""
    verb, *rest = arguments(command)
    assert verb in VERBS, command
    given = [word for word in rest if not word.startswith("-")]
    if any(word.startswith("resume=") for word in given):
        return
    if verb == "audit":
        _, given = audit_options.parse(given)
        given = [word for word in given if "=" in word]
    elif verb == "bench":
        cases.parse([word for word in given if word != "case=gpu"])
        return
    elif verb == "compare":
        jobs.setup(given)
        return
    elif verb in FEDERATION:
        kind = FEDERATION[verb]
        flags = [item.name for item in fields(kind) if item.type == "bool"]
        named, given = words.split(rest, [item.name for item in fields(kind)], flags)
        options = command_options.parsed(kind, named, f"{verb}: ")
        if isinstance(options, node.NodeOptions):
            node.settings_of(Path(options.shard or "node-0"), given)
            return
    elif verb not in ("run", "plan", "data"):  # of a folder, which is not there
        return
    composed = [given]
    if "-m" in rest:
        every = hydra_compose.jobs(given)
        composed = [every[-1]]
    for overrides in composed:
        hydra_compose.settings(overrides)


COMMANDS = sorted(
    {(page.name, block.command) for page in PAGES for block in blocks(page)}
    | {(page.name, command) for page in PAGES for command in inline(page)}
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages take for granted: shards, a module of one's own, no run folder."""
    told = ("model=local", "model.path=x")  # to a node, by the command that cut its shard
    for folder, part in (("shards/server", None), ("server", None), ("node-0", 0)):
        cut = Shard(cut="0" * 32, part=part, parts=4, data_format="jsonl", data={}, words=told)
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / DESCRIPTION).write_bytes(cut.json())
    (tmp_path / "my_users.py").write_text("from userdp.sim.data.sources.jsonl import SOURCE\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_there_are_commands_on_most_pages():
    assert len(COMMANDS) > 60
    assert len({page for page, _ in COMMANDS}) > 15


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page in FAST else [pytest.mark.slow])
        for page in sorted({page for page, _ in COMMANDS})
    ],
)
def test_the_words_of_every_command_of_a_page_parse(page):
    for name, command in COMMANDS:
        if name == page:
            check(command)


def test_a_wrong_word_does_not_pass():
    for wrong in ("userdp run rouns=3", "userdp plan --all strategy=none", "userdp audit audit.x=1",
                  "userdp run -m privacy.epsilon=1,-3", "userdp fly"):  # fmt: skip
        with pytest.raises(Exception):  # noqa: B017, PT011 - of several kinds
            check(wrong)


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.main(arguments(command)) == 0
    return capsys.readouterr().out.splitlines()


def compare(found: list[str], told: list[str]) -> None:
    """The lines of a page are those of the command; ``...`` stands for any number of lines."""
    parts = "\n".join(line.rstrip() for line in told).strip("\n").split("\n...\n")
    if parts[0].startswith("...\n"):
        parts[0] = parts[0].removeprefix("...\n")
    text = "\n".join(found)
    for part in parts:
        assert part in text
        text = text[text.index(part) + len(part) :]


PLANS = [block for page in PAGES for block in blocks(page) if block.command[:12] == "userdp plan "
         and len(block.printed) > 2]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("block", PLANS, ids=lambda block: block.command[:60])
def test_plans_print_the_figures_of_the_page(block, capsys):
    compare(printed(block.command, capsys), block.printed)


def test_the_first_lines_of_a_run_in_the_readme_are_those_of_its_plan(capsys):
    [first] = [b for b in blocks(ROOT / "README.md") if b.command == "userdp run" and b.printed]
    rows = dict(re.findall(r"^  (\w[\w ]*?)  +(.*)$", "\n".join(first.printed), re.MULTILINE))
    users = rows["declared users"].replace(",", "")
    assert cli.main(["plan", f"privacy.users={users}"]) == 0
    plan = dict(re.findall(r"^  (\w[\w ]*?)  +(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert rows["claim"] == plan["claim"]
    assert rows["rounds"] == plan["rounds"]
    assert rows["noise"].startswith(f"z = {plan['noise multiplier z']},")


def test_data_are_described_as_on_the_page(capsys):
    rows = [{"sender": "ann", "when": 1, "body": "x"}, {"sender": "bo", "when": 2, "body": "y"}]
    rows += [{"sender": "ann", "when": 3, "body": None}]
    Path("mail.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = blocks(ROOT / "docs" / "data.md")
    [block] = [block for block in found if block.command.startswith("userdp data data=")]
    compare(printed(block.command, capsys), block.printed)
