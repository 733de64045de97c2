"""The `userdp` command: which verb, which overrides, which exit code.

Imports nothing heavy before it knows what was asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

HELP = """userdp: federated fine-tuning of language models under user-level differential privacy

  userdp run    [overrides] [-m]      one run, or a Hydra sweep; resume=RUN goes on with an interrupted run
  userdp plan   [overrides] [--json]  noise for a target epsilon, or epsilon for a noise; reads no data
  userdp verify RUN                   recomputes a run's claim from its ledger alone
  userdp bench  [overrides] [--json]  a round beside plain training on the same tokens

Overrides name a value of the configuration:
  userdp run data=jsonl data.path=mail.jsonl model=local model.path=my-model privacy.epsilon=3
  userdp run -m strategy=user_wise,group_privacy privacy.epsilon=1,3,8
  userdp plan privacy.users=10000 cohort=200 rounds=1000 privacy.epsilon=2
Groups: data, model, selection, strategy, optimizer, schedule, privacy, engine, runtime, track
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a wrong configuration, 130 when interrupted."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost more than they win
    asked = list(sys.argv[1:] if arguments is None else arguments)
    verbs: dict[str, Callable[[list[str]], Any]] = {
        "run": _run,
        "plan": _plan,
        "verify": _verify,
        "bench": _bench,
    }
    if not asked or asked[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if asked[0] not in verbs:
        return _refuse(f"{asked[0]}: no such command; choose one of {', '.join(verbs)}.")
    from sim.errors import ConfigurationError

    try:
        verbs[asked[0]](asked[1:])
    except ConfigurationError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("userdp: interrupted.", file=sys.stderr)
        return 130
    return 0


def _refuse(text: str) -> int:
    print(f"userdp: error: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _run(arguments: list[str]) -> None:
    from sim import compose

    if {"-m", "--multirun"} & set(arguments):
        compose.sweep([a for a in arguments if a not in ("-m", "--multirun")])
    else:
        compose.single(arguments)


def _plan(arguments: list[str]) -> None:
    from sim import compose, planning, screen

    settings, _ = compose.settings([a for a in arguments if a != "--json"])
    plan = planning.bare(settings)
    screen.print_plan(planning.described(plan, settings), as_json="--json" in arguments)


def _verify(arguments: list[str]) -> None:
    from sim import verify

    verify.run(arguments)


def _bench(arguments: list[str]) -> None:
    from analysis import bench

    bench.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
