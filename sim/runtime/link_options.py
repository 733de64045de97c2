"""Options of the runtime over a SuperLink: where it listens, and by what it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from userdp.sim.common.errors import ConfigurationError
from userdp.sim.common.plain_text import shown

STATE = "federation.json"  # in the folder of `userdp up`
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_NAMES = ("federation", "address", "certificate", "secret", "insecure")
_PREFIX = "runtime.options."


def read(options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked options, where a federation's folder stands for the four others.

    Returns:
        ``address``, and the contents of the files that ``certificate`` and ``secret`` name, or None
        where there is none.

    Raises:
        ConfigurationError: an option is unknown, missing or wrong; or the connection would be
            plain, and not asked for or not within this machine.
    """
    for name, value in options.items():
        _check(name, value)
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if (folder := given.pop("federation", None)) is not None:
        if given:
            raise ConfigurationError(
                f"{_PREFIX}federation={shown(folder)}: it says what {_PREFIX}{next(iter(given))} "
                "does; give one of the two."
            )
        given = state(Path(folder))
    return endpoint(given, _PREFIX)


def _check(name: str, value: Any) -> None:
    if name not in _NAMES:
        raise ConfigurationError(
            f"{_PREFIX}{shown(name)}={shown(value)}: no option of runtime.kind=superlink; choose "
            f"one of {', '.join(_NAMES)}."
        )
    is_text = isinstance(value, str) and bool(value.strip())
    if not (value is None or (isinstance(value, bool) if name == "insecure" else is_text)):
        kind = "true or false" if name == "insecure" else "a text"
        raise ConfigurationError(f"{_PREFIX}{name}={shown(value)}: should be {kind}.")


def endpoint(given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A checked address with what secures it, whose files are read.

    Args:
        given: ``address``, ``certificate``, ``secret`` and ``insecure``, where they are known.
        prefix: before the names in messages.

    Raises:
        ConfigurationError: as `read`.
    """
    if "address" not in given:
        raise ConfigurationError(
            f"{prefix}address is missing: give host:port of the SuperLink, and a certificate; or "
            f"{prefix}federation, the folder of userdp up."
        )
    address = str(given["address"])
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"{prefix}address={shown(address)}: should be host:port.")
    insecure, certificate = given.get("insecure", False), given.get("certificate")
    if insecure and certificate is not None:
        raise ConfigurationError(
            f"{prefix}insecure=true: with {prefix}certificate it is not said whether to encrypt; "
            "leave out one of the two."
        )
    if insecure and host not in _LOOPBACK:
        raise ConfigurationError(
            f"{prefix}insecure=true: {prefix}address={address} is not on this machine, and what "
            "nodes send is not noised; give a certificate."
        )
    if not insecure and certificate is None:
        raise ConfigurationError(
            f"{prefix}certificate is missing: give the certificate, in PEM, of the authority that "
            f"signed the server's; or {prefix}insecure=true, on this machine alone."
        )
    return {
        "address": address,
        "certificate": _contents(certificate, f"{prefix}certificate"),
        "secret": _contents(given.get("secret"), f"{prefix}secret"),
    }


def _contents(path: str | None, name: str) -> bytes | None:
    if path is None:
        return None
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{name}={shown(path)}: cannot be read ({error.strerror})."
        ) from None
    if not contents:
        raise ConfigurationError(f"{name}={shown(path)}: the file is empty.")
    return contents


def state(folder: Path) -> dict[str, Any]:
    """The four options of a federation that `userdp up` has started.

    Raises:
        ConfigurationError: none runs there, or its state file is damaged.
    """
    path = folder / STATE
    name = f"{_PREFIX}federation={shown(str(folder))}"
    try:
        link = json.loads(path.read_bytes())["superlink"]
        given = {key: link[key] for key in _NAMES[1:] if link.get(key) is not None}
    except FileNotFoundError:
        raise ConfigurationError(
            f"{name}: no federation runs there; start one with userdp up."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"{name}: {STATE} is damaged ({type(error).__name__}); end the federation and start "
            "it again."
        ) from None
    for key, value in given.items():
        if not isinstance(value, bool if key == "insecure" else str):
            raise ConfigurationError(f"{name}: {STATE} is damaged (superlink.{key}).")
    return given
