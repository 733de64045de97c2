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
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar, cast

from userdp.sim.common import foreign_code
from userdp.sim.common.errors import ConfigurationError

Entry = TypeVar("Entry")


class Table(Generic[Entry]):
    """The choices of one configuration key.

    An entry may be given as a dotted name, ``package.module.attribute``; it is then imported by
    `find`, so that creating a table imports nothing. A name that is itself dotted needs no entry:
    this is how a package outside userdp adds a mechanism, an accountant or a data source. A dotted
    name consists of identifiers, so that no free text passes for a name, and `foreign_code` decides
    whether one that a run folder gives is imported.

    Args:
        setting: the configuration key that holds the name, for messages.
        entries: name -> the entry, or its dotted name.
        kinds: the classes of which every entry must be an instance; other objects are refused.
        base: where entries are classes: the one that they must be below, and not be abstract.
    """

    def __init__(
        self,
        setting: str,
        entries: Mapping[str, Entry | str],
        kinds: Sequence[type] = (object,),
        base: type | None = None,
    ) -> None:
        self.setting = setting
        self._entries = dict(entries)
        self._kinds, self._base = tuple(kinds), base

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def check(self, name: str) -> None:
        """Refuse a name that is neither in the table nor a dotted name; imports nothing.

        Raises:
            ConfigurationError: names the entries there are.
        """
        if name not in self and not foreign_code.is_dotted(name):
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
        if name not in self:
            foreign_code.check(self.setting, name)
        return self._imported(name, entry)

    def name_of(self, name: str) -> str:
        """The name by which a claim may call this entry: that in the table, where it has one.

        Raises:
            ConfigurationError: as `find`.
        """
        entry = self.find(name)
        return next((known for known in self if self.find(known) is entry), name)

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
        self._check_class(name, entry)
        return cast(Entry, entry)

    def _check_class(self, name: str, entry: object) -> None:
        if self._base is None:
            return
        if not (isinstance(entry, type) and issubclass(entry, self._base)):
            base = self._base.__name__
            raise ConfigurationError(f"{self.setting}={name}: not a subclass of {base}.")
        if inspect.isabstract(entry) or entry is self._base:
            raise ConfigurationError(f"{self.setting}={name}: a base class; name a class below it.")
