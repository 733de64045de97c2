"""Tables from the names in a configuration to what they stand for; dotted names extend them.

>>> shapes = Table("figure.shape", {"circle": "math.tau", "line": 1.0})
>>> shapes.find("line"), shapes.find("circle") > 6, shapes.find("math.pi") > 3
(1.0, True, True)
>>> shapes.find("cirle")
Traceback (most recent call last):
    ...
userdp.sim.common.errors.ConfigurationError: figure.shape=cirle: choose one of circle, line.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar, cast

from userdp.sim.common.errors import ConfigurationError

Entry = TypeVar("Entry")


class Table(Generic[Entry]):
    """The choices of one configuration key.

    An entry may be given as a dotted name, ``package.module.attribute``; it is then imported by
    `find`, so that creating a table imports nothing. A name that is itself dotted needs no entry:
    this is how a package outside userdp adds a mechanism, an accountant or a data source.

    Args:
        setting: the configuration key that holds the name, for messages.
        entries: name -> the entry, or its dotted name.
        kinds: the classes of which every entry must be an instance; other objects are refused.
    """

    def __init__(
        self, setting: str, entries: Mapping[str, Entry | str], kinds: Sequence[type] = (object,)
    ) -> None:
        self.setting = setting
        self._entries = dict(entries)
        self._kinds = tuple(kinds)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def check(self, name: str) -> None:
        """Refuse a name that is neither in the table nor dotted; imports nothing.

        Raises:
            ConfigurationError: names the entries there are.
        """
        if name not in self and "." not in name:
            raise ConfigurationError(f"{self.setting}={name}: choose one of {', '.join(self)}.")

    def find(self, name: str) -> Entry:
        """The entry of this name, imported if it is given by its dotted name.

        Raises:
            ConfigurationError: no entry has the name, or a dotted name cannot be imported or
                names an object of another kind.
        """
        entry = self._entries.get(name, name)
        if not isinstance(entry, str):
            return entry
        self.check(name)
        return self._imported(name, entry)

    def _imported(self, name: str, dotted: str) -> Entry:
        module, _, attribute = dotted.rpartition(".")
        try:
            entry = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a module outside userdp may fail in any way
            reason = f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"{self.setting}={name}: {reason}") from None
        if not isinstance(entry, self._kinds):
            kinds = " or ".join(kind.__name__ for kind in self._kinds)
            raise ConfigurationError(f"{self.setting}={name}: expected {kinds}, got {entry!r}.")
        return cast(Entry, entry)
