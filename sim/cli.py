"""The `userdp` command: which verb, which overrides, which exit code.

Imports nothing heavy before it knows what was asked for.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from userdp.sim.common import third_party
from userdp.sim.common.errors import ConfigurationError, StoppedError

HELP = """userdp: federated fine-tuning of language models under user-level differential privacy

  userdp run    [overrides] [-m]      one run, or a sweep; resume=RUN goes on with a run,
                                      the same -m output=FOLDER with a sweep
  userdp plan   [overrides] [--json]  noise for a target epsilon, or epsilon for a noise;
                                      --all: both strategies at several k, ranked by noise
  userdp verify RUN                   recomputes a run's claim from its ledger alone
  userdp compare [overrides] [--dry-run]  strategies x selections over seeds: one table
  userdp report FOLDER [output=DIR]   one HTML page about a run or a sweep, figures beside it
  userdp bench  [case=NAME] [overrides] [--json] [--long]
                                      a round beside plain training and peers, same tokens

Overrides name a value of the configuration:
  userdp run data=jsonl data.path=mail.jsonl model=local model.path=my-model privacy.epsilon=3
  userdp run -m strategy=user_wise,group_privacy privacy.epsilon=1,3,8
  userdp plan privacy.users=10000 cohort=200 rounds=1000 privacy.epsilon=2
Groups: data, model, selection, strategy, optimizer, schedule, privacy, engine, runtime, track

Exit code: 0, 1 for a run that stopped and can be resumed, or failed in a sweep,
2 for a wrong configuration, 130 for Ctrl-C
"""
_SWEEP = ("-m", "--multirun")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, as ``HELP`` lists them."""
    third_party.environment()
    asked = list(sys.argv[1:] if arguments is None else arguments)
    verbs: dict[str, Callable[[list[str]], Any]] = {
        "run": _run,
        "plan": _plan,
        "verify": _verify,
        "bench": _bench,
        "compare": _compare,
        "report": _report,
    }
    if not asked or asked[0] == "help" or {"-h", "--help"} & set(asked):
        print(HELP, end="")
        return 0
    if asked[0] not in verbs:
        return _tell(f"error: {asked[0]}: no such command; choose one of {', '.join(verbs)}.", 2)
    with _warnings_shown():
        return _exit_code(verbs[asked[0]], asked[1:])


def _exit_code(verb: Callable[[list[str]], Any], arguments: list[str]) -> int:
    try:
        verb(arguments)
    except ConfigurationError as error:
        return _tell(f"error: {error}", 2)
    except StoppedError as error:
        return _tell(f"stopped: {error}", 1)
    except KeyboardInterrupt as interrupt:
        notes = getattr(interrupt, "__notes__", [])
        return _tell("; ".join(["interrupted", *notes]), 130)
    return 0


def _tell(text: str, code: int) -> int:
    """One line on standard error."""
    print(f"userdp: {' '.join(text.split())}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Our own log on standard error, a line each, whatever third parties do to the root logger."""
    log, handler = logging.getLogger("userdp"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("userdp: warning: %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = True


def _overrides(arguments: list[str], *flags: str) -> list[str]:
    """The arguments without the flags of the verb; refuses any other flag."""
    for item in arguments:
        if item.startswith("-") and item not in flags:
            known = f"; known here: {', '.join(flags)}" if flags else ""
            raise ConfigurationError(f"{item}: no such option{known}.")
    return [item for item in arguments if item not in flags]


def _run(arguments: list[str]) -> None:
    began, overrides = time.perf_counter(), _overrides(arguments, *_SWEEP)
    if set(_SWEEP) & set(arguments):
        from userdp.sim.sweep import sweep

        sweep.main(overrides, began)
        return
    from userdp.sim.config import hydra_compose

    hydra_compose.single(overrides)


def _plan(arguments: list[str]) -> None:
    from userdp.sim.config import hydra_compose
    from userdp.sim.console import alternatives_table, run_summary
    from userdp.sim.planning import alternatives, planner

    asked, _ = hydra_compose.settings(_overrides(arguments, "--all", "--json"))
    third_party.accountants()
    plan = planner.bare(asked)
    # The other accountants are slow to import, and no part of the claim.
    names = planner.ACCOUNTANTS if "--json" in arguments else [plan.accountant]
    told = planner.described(plan, asked, names)
    told |= alternatives.advice(plan, asked, alternatives="--all" in arguments)
    if "--json" in arguments:
        run_summary.print_json(told)
    else:
        run_summary.print_plan(told, plan)
        alternatives_table.print_advice(told)


def _verify(arguments: list[str]) -> None:
    from userdp.sim.run import verify

    verify.run(_overrides(arguments))


def _bench(arguments: list[str]) -> None:
    from userdp.analysis.benchmark import command

    overrides = _overrides(arguments, "--json", "--long")
    command.main([*overrides, *({"--json", "--long"} & set(arguments))])


def _compare(arguments: list[str]) -> None:
    from userdp.analysis.comparison import command as compare

    compare.main([*_overrides(arguments, "--dry-run"), *({"--dry-run"} & set(arguments))])


def _report(arguments: list[str]) -> None:
    from userdp.analysis.report import command as report

    third_party.accountants()
    report.main(_overrides(arguments))


if __name__ == "__main__":
    sys.exit(main())
