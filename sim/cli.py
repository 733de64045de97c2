"""The ``userdp`` command: its verbs, their options, and exit codes.

Each verb imports what it needs; ``userdp --help`` imports almost only the standard library.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from userdp.sim.common import plain_text, third_party
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.console import streams

HELP = """userdp: federated fine-tuning of language models under user-level differential privacy

  userdp run    [overrides] [-m]      one run, or a sweep; resume=RUN resumes a run, the
                                      same -m with output=FOLDER resumes a sweep
  userdp plan   [overrides] [--json]  noise for a target epsilon, or epsilon for a noise;
                                      --all: both strategies at several k, ranked by noise
  userdp data   [overrides] [--json]  describes the data before a run: columns, users,
                                      settings; counts with track.simulation_only=true
  userdp verify RUN [--head HASH]     recomputes a run's claim from its ledger, and compares
                                      all that the run wrote with it
  userdp generate RUN ["prompt" ...] [--count N] [--temperature T] [--top-p P] [--chat]
                  [--max-tokens N] [--seed S] [--prompts FILE] [--base FOLDER] [--jsonl FILE]
                                      what the adapter writes after public prompts, beside its
                                      base model; --jsonl: a data set of it, and a card
  userdp push RUN REPOSITORY [--private] [--dry-run] [--allow-not-private]
                                      the adapter, its card and its evidence to the hub
  userdp audit [overrides | RUN] [audit.NAME=VALUE] [--json] [--self-test]
                                      canary users: what is leaked at least, beside the claim
  userdp attack RUN|SWEEP [attack.NAME=VALUE] [--json]
                                      user inference: can one tell from the adapters who took
                                      part; of runs with track.simulation_only=true
  userdp compare [overrides] [--dry-run]  strategies x selections over seeds: one table
  userdp report FOLDER [output=DIR]   one HTML page about a run or a sweep, figures beside it
  userdp bench  [case=NAME] [overrides] [--json] [--long]
                                      a round beside plain training and peers, same tokens
  userdp shard  [overrides] nodes=N output=FOLDER   cuts the data into a folder for each node
  userdp up     --nodes N --shards FOLDER [--state FOLDER] [--insecure] [--secure_sum]
                                      starts SuperLink, SuperNodes and workers on this machine
  userdp down   [FOLDER]              ends these processes
  userdp node   shard=FOLDER supernode=HOST:PORT certificate=FILE secret=FILE [overrides]
                                      the worker of one SuperNode (docs/superlink.md)

Overrides name a value of the configuration:
  userdp run data=jsonl data.path=mail.jsonl model=local model.path=my-model privacy.epsilon=3
  userdp run -m strategy=user_wise,group_privacy privacy.epsilon=1,3,8
  userdp plan privacy.users=10000 cohort=200 rounds=1000 privacy.epsilon=2
Groups: data, model, selection, strategy, optimizer, schedule, privacy, engine, runtime, track

Exit code: 0, 1 for a run that stopped (the line says whether it can be resumed), failed in
a sweep, or an audit that contradicts a claim, 2 for a wrong configuration, 130 for Ctrl-C
"""
_SWEEP = ("-m", "--multirun")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command; None: those of the process.

    Returns:
        The exit code, as ``HELP`` lists them.
    """
    with streams.steady():
        return _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(words: list[str]) -> int:
    third_party.environment()
    verbs: dict[str, Callable[[list[str]], Any]] = {
        "run": _run,
        "plan": _plan,
        "data": _data,
        "verify": _verify,
        "generate": _generate,
        "push": _push,
        "audit": _audit,
        "attack": _attack,
        "bench": _bench,
        "compare": _compare,
        "report": _report,
        "shard": _shard,
        "up": _up,
        "down": _down,
        "node": _node,
    }
    if not words or words[0] == "help" or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    if words[0] not in verbs:
        known = ", ".join(verbs)
        return _print_error(f"error: {words[0]}: no such command; choose one of {known}.", 2)
    _allow_modules_of_working_folder()
    with _warnings_shown():
        return _exit_code(verbs[words[0]], words[1:])


def _allow_modules_of_working_folder() -> None:
    """Let dotted names find modules in the working folder; installed modules come before them."""
    with contextlib.suppress(OSError):  # of a folder that is gone
        if (folder := os.getcwd()) not in sys.path:
            sys.path.append(folder)


def _exit_code(verb: Callable[[list[str]], Any], arguments: list[str]) -> int:
    try:
        verb(arguments)
    except ConfigurationError as error:
        return _print_error(f"error: {error}", 2)
    except StoppedError as error:
        return _print_error(f"stopped: {error}", 1)
    except KeyboardInterrupt as interrupt:
        notes = getattr(interrupt, "__notes__", [])
        return _print_error("; ".join(["interrupted", *notes]), 130)
    except Exception as error:
        from userdp.sim.console import environment_errors

        line = environment_errors.told(error)
        if line is None:
            raise
        return _print_error(f"error: {line}", 2)
    sys.stdout.flush()
    if lost := streams.lost_output():
        return _print_error(f"stopped: standard output took not all of it: {lost}", 1)
    return 0


def _print_error(text: str, code: int) -> int:
    """Print one line on standard error; returns the exit code."""
    print(f"userdp: {plain_text.printable(' '.join(text.split()))}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """Print our warnings on standard error, even if a library changes the root logger."""
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
    """The arguments without the flags of the verb.

    Raises:
        ConfigurationError: there is another flag, or an argument is empty.
    """
    if not all(item.strip() for item in arguments):
        raise ConfigurationError("an argument is empty; is a variable of the shell unset?")
    for item in arguments:
        if item.startswith("-") and item not in flags:
            options = f"; choose one of {', '.join(flags)}" if flags else ""
            raise ConfigurationError(f"{item}: no such option{options}.")
    return [item for item in arguments if item not in flags]


def _run(arguments: list[str]) -> None:
    started, overrides = time.perf_counter(), _overrides(arguments, *_SWEEP)
    if set(_SWEEP) & set(arguments):
        from userdp.analysis.report import wandb_summary
        from userdp.sim.sweep import sweep

        sweep.main(overrides, started, wandb_summary.log)
        return
    from userdp.sim.config import hydra_compose, validation

    settings, config = hydra_compose.settings(overrides)
    from userdp.sim.run import runner  # slow to import, so after the configuration is checked

    runner.run(settings, validation.resolved(config))


def _plan(arguments: list[str]) -> None:
    from userdp.sim.config import hydra_compose
    from userdp.sim.console import alternatives_table, run_summary
    from userdp.sim.planning import alternatives, planner

    settings, _ = hydra_compose.settings(_overrides(arguments, "--all", "--json"))
    third_party.accountants()
    plan = planner.bare(settings)
    # The other accountants are slow to import, and not part of the claim.
    names = None if "--json" in arguments else [plan.accountant]
    described = planner.described(plan, settings, names)
    described |= alternatives.advice(plan, settings, alternatives="--all" in arguments)
    if "--json" in arguments:
        run_summary.print_json(described)
    else:
        run_summary.print_plan(described, plan)
        alternatives_table.print_advice(described)


def _data(arguments: list[str]) -> None:
    from userdp.sim.config import hydra_compose
    from userdp.sim.console import data_table, run_summary
    from userdp.sim.inputs import data_description

    overrides = _overrides(arguments, "--json")
    settings, _ = hydra_compose.settings(overrides)
    told = data_description.described(settings, overrides)
    if "--json" in arguments:
        run_summary.print_json(told)
    else:
        print(data_table.text(told))


def _verify(arguments: list[str]) -> None:
    from userdp.sim.run import verify

    words, head = list(arguments), None
    if "--head" in words:
        place = words.index("--head")
        head = next(iter(words[place + 1 : place + 2]), None)
        del words[place : place + 2]
        if head is None:
            raise ConfigurationError("verify: --head needs the hash that was noted.")
    folders = _overrides(words)
    if len(folders) != 1:
        raise ConfigurationError("verify: name one run folder.")
    print(verify.verify(Path(folders[0]), head).text())


def _generate(arguments: list[str]) -> None:
    from userdp.sim.saved_run import generate

    third_party.accountants()
    generate.main(arguments)


def _push(arguments: list[str]) -> None:
    from userdp.sim.saved_run import push

    third_party.accountants()
    flags = [item for item in push.FLAGS if item in arguments]
    push.main(_overrides(arguments, *push.FLAGS), flags)


def _audit(arguments: list[str]) -> None:
    from userdp.analysis.audit import command

    third_party.accountants()
    flags = [item for item in command.FLAGS if item in arguments]
    command.main([*_overrides(arguments, *command.FLAGS), *flags])


def _attack(arguments: list[str]) -> None:
    third_party.libraries()
    from userdp.analysis.user_inference import command

    flags = [item for item in command.FLAGS if item in arguments]
    command.main([*_overrides(arguments, *command.FLAGS), *flags])


def _bench(arguments: list[str]) -> None:
    from userdp.analysis.benchmark import command

    overrides = _overrides(arguments, "--json", "--long")
    command.main([*overrides, *({"--json", "--long"} & set(arguments))])


def _compare(arguments: list[str]) -> None:
    from userdp.analysis.comparison import command

    command.main([*_overrides(arguments, "--dry-run"), *({"--dry-run"} & set(arguments))])


def _report(arguments: list[str]) -> None:
    from userdp.analysis.report import command

    third_party.accountants()
    command.main(_overrides(arguments))


def _shard(arguments: list[str]) -> None:
    from userdp.sim.federation import shard

    shard.main(arguments)


def _up(arguments: list[str]) -> None:
    from userdp.sim.federation import up

    up.main(arguments)


def _down(arguments: list[str]) -> None:
    from userdp.sim.federation import down

    down.main(arguments)


def _node(arguments: list[str]) -> None:
    from userdp.sim.federation import node

    node.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
