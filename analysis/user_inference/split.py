"""Writes a copy of a JSON lines file in which some users, and of the others some records, are held.

    python -m userdp.analysis.user_inference.split IN.jsonl OUT.jsonl least=12
    userdp run data=jsonl data.path=OUT.jsonl data.split=column data.split_column=split ...

This is the set-up of the user inference attack (Kandpal et al., arXiv 2310.09266): the attacker
knows texts of a user that were not trained on. Users with few records are left out. Of every other
user half of the records get the side "test"; the rest get "train" if the user takes part, which
half of the users do, and are left out if not. The run's held-out score is then of participants,
too, so such a run is for simulations only.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from userdp.sim.common import durable_file, rng
from userdp.sim.common.bounds import Between
from userdp.sim.common.errors import ConfigurationError
from userdp.sim.config import command_options
from userdp.sim.config.field_types import Closed, Column, Seed, Share, Whole
from userdp.sim.data import holdout
from userdp.sim.data.population import user_key

Row = dict[str, Any]
SIDE = "split"  # column of the side


@dataclass(frozen=True, kw_only=True)
class Options(Closed):
    """Who is kept, and what of each user is held back.

    Raises:
        ConfigurationError: a value is out of range.
    """

    user: Column = "user_id"  # column of the user's id
    least: Annotated[Whole, Between(2, 10**6)] = 12  # records of a user who is kept
    outside: Share = 0.5  # share of the users who do not take part
    seed: Seed = 0  # decides who takes part, and which records are held back


def divided(users: Mapping[str, Sequence[Row]], options: Options) -> list[Row]:
    """The rows that are kept, each with its side; users in order.

    Args:
        users: rows of each user, in order.
    """
    kept = []
    for user, rows in users.items():
        if len(rows) < options.least:
            continue
        outside = holdout.user_held_out(options.seed, user, options.outside)
        order = rng.generator(options.seed, "held back", user_key(user)).permutation(len(rows))
        held = set(order[: len(rows) // 2].tolist())
        for number, row in enumerate(rows):
            if number in held:
                kept.append({**row, SIDE: "test"})
            elif not outside:
                kept.append({**row, SIDE: "train"})
    return kept


def main(arguments: Sequence[str]) -> int:
    """Write the divided file; returns the exit code."""
    try:
        source, target, *words = arguments
        options = command_options.parsed(Options, words, "")
        users: dict[str, list[Row]] = defaultdict(list)
        with Path(source).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                users[str(row[options.user])].append(row)
        with durable_file.text(Path(target)) as file:
            file.writelines(f"{json.dumps(row)}\n" for row in divided(users, options))
    except ConfigurationError as error:
        print(f"split: {error}", file=sys.stderr)
    except (OSError, LookupError, TypeError, ValueError) as error:  # it may quote a record
        name = type(error).__name__
        print(f"split: name two files of JSON lines, IN and OUT; {name}.", file=sys.stderr)
    else:
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
