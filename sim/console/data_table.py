"""Prints what `userdp data` found, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from userdp.sim.common import plain_text

WIDTH = 80  # columns
_HIDDEN = (
    "there are very many, or some whose names look like values of records, so none is shown: is "
    "data.format right, has a csv file its header, and are the keys of objects no data?"
)
_HEAD = ("min", "10%", "25%", "50%", "75%", "90%", "99%", "max")


def text(told: Mapping[str, Any]) -> str:
    """The lines about data.

    Args:
        told: `userdp.sim.inputs.data_description.described` of the settings.
    """
    lines = ["userdp data", *_row("format", told["format"])]
    if told["path"] is not None:
        lines += _row("path", told["path"])
    if "generated_users" in told:
        lines += _row("users", f"{told['generated_users']:,}, invented from public settings")
    lines += _columns(told)
    if "user" in told:
        lines += _guessed(told)
    lines += _row("held out", told["held_out"])
    lines += _row("run", told["settings"])
    if "simulation_only" in told:
        lines += _figures(told["simulation_only"])
    elif "generated_users" not in told:
        note = "track.simulation_only=true counts users, records and tokens: private figures"
        lines += _row("counts", note)
    return plain_text.printable("\n".join(lines))


def _row(name: str, value: str) -> list[str]:
    prefix = f"  {name:<9} "
    return textwrap.wrap(
        value,
        WIDTH,
        initial_indent=prefix,
        subsequent_indent=" " * len(prefix),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns(told: Mapping[str, Any]) -> list[str]:
    columns = told["columns"]
    if told.get("names_hidden"):
        return _row("columns", _HIDDEN)
    if not columns:
        return [] if "generated_users" in told else _row("columns", "none: there is no row")
    width = min(24, max(len(column["name"]) for column in columns))
    lines = ["", f"  {'column':<{width}}  {'holds':<20}  in the first 1,000 rows"]
    for column in columns:
        share = column.get("share_filled")
        filled = "" if share is None else f"{share:.1%} filled"
        holds = " or ".join(column["types"]) or "nothing"
        lines.append(f"  {column['name']:<{width}}  {holds:<20}  {filled}".rstrip())
    return [*lines, ""]


def _guessed(told: Mapping[str, Any]) -> list[str]:
    user, records = told["user"], told["records"]
    named = ", ".join(f"{column} (data.{name})" for name, column in records["columns"].items())
    return [
        *_row("user", f"{user['column']}: {user['reason']}" if user["column"] else user["reason"]),
        *_row("records", f"{named}: {records['reason']}" if named else records["reason"]),
    ]


def _figures(figures: Mapping[str, Any]) -> list[str]:
    sides = {"to train on": figures["train"], "held out": figures["held_out"]}
    lines = ["", "  simulation_only: private figures", f"  {'':<16}{'users':>10}{'records':>12}"]
    for name, side in sides.items():
        lines.append(f"  {name:<16}{side['users']:>10,}{side['records']:>12,}")
    lines += ["", f"  {'':<16}" + "".join(f"{name:>7}" for name in _HEAD)]
    for name, key in (("records a user", "records_per_user"), ("tokens a record", None)):
        values = figures["train"][key or "tokens_per_record"]
        lines.append(f"  {name:<16}" + "".join(f"{value:>7g}" for value in values))
    share = figures["train"]["share_longer_than_seq_len"]
    lines.append(f"  {share:.1%} of the records to train on are longer than model.seq_len")
    return [*lines, *_dropped(figures["dropped"])]


def _dropped(reasons: Mapping[str, int]) -> Sequence[str]:
    if not reasons:
        return ["  no row was dropped"]
    told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    return textwrap.wrap(f"dropped: {told}", WIDTH, initial_indent="  ", subsequent_indent="    ")
