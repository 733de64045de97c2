"""Options of a command that are no settings of a run: words ``NAME=VALUE``, of a typed class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown
from userdp.sim.config import interpolation, refusal

Options = TypeVar("Options")


def parsed(
    kind: type[Options],
    words: Sequence[str],
    prefix: str,
    given: Mapping[str, Any] | None = None,
) -> Options:
    """The options that the words name; the defaults of the class hold for the others.

    Args:
        kind: a dataclass with typed fields.
        words: of the command line, without the prefix.
        prefix: before the names of fields in messages.
        given: values that the words go before.

    Raises:
        ConfigurationError: a word is no ``NAME=VALUE``, or its value is not of the field's type.
    """
    known = ", ".join(item.name for item in fields(kind))  # type: ignore[arg-type]
    values = dict(given or {})
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in {item.name for item in fields(kind)}:  # type: ignore[arg-type]
            raise ConfigurationError(
                f"{prefix}{shown(word)}: no such option; choose one of {known}, as NAME=VALUE."
            )
        if not value.strip():  # YAML would take it for null; a variable of the shell may be unset
            raise ConfigurationError(f"{prefix}{shown(word)}: should have a value, NAME=VALUE.")
        values |= _value(word, prefix)
    return refusal.checked(kind, values, prefix)


def taken(kind: type[Options], words: Sequence[str], prefix: str) -> tuple[Options, list[str]]:
    """The options that begin with a prefix, and the words that do not.

    Args:
        words: of the command line.
        prefix: of the options, with its dot.

    Raises:
        ConfigurationError: as `parsed`.
    """
    given = [word.removeprefix(prefix) for word in words if word.startswith(prefix)]
    rest = [word for word in words if not word.startswith(prefix)]
    return parsed(kind, given, prefix), rest


def _value(word: str, prefix: str) -> dict[str, Any]:
    try:
        config = OmegaConf.from_dotlist([word])
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise ConfigurationError(
            f"{prefix}{shown(word)}: is not well formed ({reason}); quote special characters."
        ) from None
    try:
        return interpolation.plain(config)
    except ConfigurationError as error:
        raise ConfigurationError(f"{prefix}{error}") from None
