"""The words of the commands ``shard``, ``node``, ``up`` and ``down``: their options, and overrides.

An option is written ``NAME=VALUE`` or ``--NAME VALUE``; what is no option is an override of the
configuration.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown

_PLAIN = re.compile(r"[\w./~-]+")


def split(
    words: Sequence[str], options: Collection[str], flags: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """The options of a command as words ``NAME=VALUE``, and the overrides.

    Args:
        words: of the command line, after the verb.
        options: names of options.
        flags: names of options that ``--NAME`` alone sets to true.

    Raises:
        ConfigurationError: a word is empty, an option that the command does not have, one that
            lacks its value, or one that is there twice.
    """
    found: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.strip():
            raise ConfigurationError("an argument is empty; is a variable of the shell unset?")
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("--") and name in flags and not equals:
            found.append(f"{name}=true")
        elif word.startswith("--") and name in options:
            if not equals and not rest:
                raise ConfigurationError(f"{word}: needs a value.")
            found.append(f"{name}={value if equals else rest.pop(0)}")
        elif word.startswith("-"):
            known = ", ".join(f"--{one}" for one in (*options, *flags))
            raise ConfigurationError(f"{shown(word)}: no such option; choose one of {known}.")
        elif name in options or name in flags:
            found.append(word)
        else:
            overrides.append(word)
    names = [word.partition("=")[0] for word in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigurationError(f"{twice[0]}: is given twice.")
    return found, overrides


def override(name: str, value: str) -> str:
    """An override whose value is this text, whatever signs it holds."""
    if _PLAIN.fullmatch(value):
        return f"{name}={value}"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def line(words: Sequence[str]) -> str:
    """The words as one line for a shell."""
    return shlex.join(words)
