"""`userdp up`: a federation on this machine, to try one: SuperLink, SuperNodes and their workers.

Connections are encrypted and SuperNodes are known by their keys, as in a deployment over several
machines; certificates, keys and secrets are made here, for this federation alone.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userdp.clients import node_keys
from userdp.sim.common import durable_file
from userdp.sim.common.errors import ConfigurationError, StoppedError
from userdp.sim.config import command_options
from userdp.sim.data.sources import shard as shards
from userdp.sim.federation import certificates, down, node, processes, state, words
from userdp.sim.federation.processes import Process
from userdp.sim.federation.state import State
from userdp.sim.runtime import flower_api, link_options
from userdp.sim.runtime.flower_api import Endpoint

_LOG = logging.getLogger("userdp")
_HOST = "127.0.0.1"
_FLAGS = ("insecure", "secure_sum")
_MOST_NODES = 64
_SECRET_BYTES = 32
_PAUSE = 0.2  # seconds between two looks
_LONGEST = 600.0  # seconds until all must be there
_END = 8.0  # seconds in which a process ends by itself
_FLOWER = {
    "superlink": "from flwr.superlink.cli import flower_superlink as main; main()",
    "supernode": "from flwr.supernode.cli import flower_supernode as main; main()",
}


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """Options of `userdp up`."""

    nodes: int = 4
    shards: str | None = None  # folder of `userdp shard`
    state: str = down.FOLDER  # folder for certificates, logs and the state file
    insecure: bool = False  # without encryption and keys
    secure_sum: bool = False  # nodes mask their sums; on one machine a trial, which hides nothing


def main(arguments: Sequence[str]) -> None:
    """Start a federation, wait until its nodes are ready, and print how to run on it.

    Args:
        arguments: options of `UpOptions`, and overrides of the configuration for all nodes.

    Raises:
        ConfigurationError: an option or a shard is wrong, or a federation runs there already.
        StoppedError: a process did not start; none is left.
    """
    names = [field.name for field in dataclasses.fields(UpOptions) if field.name not in _FLAGS]
    given, overrides = words.split(arguments, names, _FLAGS)
    options = command_options.parsed(UpOptions, given, "up: ")
    places = _shards(options)
    for place in places[:-1]:
        node.settings_of(place, overrides)  # what is wrong shows before anything is started
    folder = _folder(options)
    if options.secure_sum:
        overrides = [*overrides, *_masking(folder, options.nodes)]
    federation = _Federation(folder, insecure=options.insecure)
    try:
        federation.start(places[:-1], overrides)
    except BaseException:
        processes.end(federation.running[::-1], _END)
        down.clean(folder)
        raise
    _print_next(folder, federation, places[-1], overrides)


def _masking(folder: Path, nodes: int) -> list[str]:
    """Make keys for secure sums; the overrides by which nodes and server use them.

    One folder holds the keys of all nodes, and the server has it too: a statement then says that
    the server could have read every node's sum, which is so on one machine.

    Raises:
        ConfigurationError: there is one node alone.
    """
    if nodes < 2:
        raise ConfigurationError(f"up: nodes={nodes}: secure sums need two or more.")
    keys = folder / down.KEYS
    node_keys.make(keys, nodes)
    settings = ["runtime.secure_sum=true", f"runtime.nodes={nodes}"]
    return [*settings, words.override("runtime.keys", str(keys))]


def _shards(options: UpOptions) -> list[Path]:
    """The folders of the nodes' shards, and last the server's.

    Raises:
        ConfigurationError: they are not all there, or are not parts of one whole.
    """
    if not 1 <= options.nodes <= _MOST_NODES:
        raise ConfigurationError(
            f"up: nodes={options.nodes}: should be 1 to {_MOST_NODES}, all on this machine."
        )
    if options.shards is None:
        raise ConfigurationError(
            "up: give shards=FOLDER, which userdp shard has written: the records of each node."
        )
    folder = Path(options.shards)
    places = [folder / f"node-{number}" for number in range(options.nodes)] + [folder / "server"]
    wanted = [*range(options.nodes), None]
    for place, part in zip(places, wanted, strict=True):
        found = shards.read(str(place))
        if (found.part, found.parts) != (part, options.nodes):
            raise ConfigurationError(
                f"up: {place}: is part {found.part} of {found.parts}; with nodes={options.nodes} "
                "it should be cut into as many: userdp shard nodes=N."
            )
    return places


def _folder(options: UpOptions) -> Path:
    folder = Path(options.state)
    if any(process.runs for process in state.processes(folder)):
        raise ConfigurationError(
            f"up: state={folder}: a federation runs there; end it with userdp down {folder}, or "
            "name another folder."
        )
    foreign = folder.is_dir() and any(folder.iterdir()) and not (folder / down.MARK).exists()
    if foreign or (folder.exists() and not folder.is_dir()):
        raise ConfigurationError(f"up: state={folder}: holds other files; name a new folder.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    durable_file.replace(folder / down.MARK, b"a federation of userdp up\n")
    return folder.absolute()


@dataclass
class _Federation:
    """Starts the processes one after another, and notes each in the state file."""

    folder: Path
    insecure: bool
    running: list[Process] = field(default_factory=list)
    link: dict[str, Any] = field(default_factory=dict)
    supernodes: list[dict[str, Any]] = field(default_factory=list)

    def start(self, places: Sequence[Path], overrides: Sequence[str]) -> None:
        """Start everything, and wait until all nodes are ready."""
        self._authority = None if self.insecure else certificates.Authority(self.folder)
        self._nodes = len(places)
        for name in [path.name for path in self.folder.glob("*.log")]:
            durable_file.remove(self.folder / name)
        self._start_superlink()
        endpoint = Endpoint(**link_options.endpoint(self.link, "up: "))
        self._wait("the SuperLink", lambda: _online(endpoint) is not None)
        for number in range(self._nodes):
            self._start_supernode(number, endpoint)
        for number, place in enumerate(places):
            self._start_worker(number, place, overrides)
        self._wait("the SuperNodes", lambda: _online(endpoint) == self._nodes)
        self._wait("the nodes", self._are_ready)

    def _start_superlink(self) -> None:
        command, self.link = self._served("superlink")
        if not self.insecure:
            command.append("--enable-supernode-auth")
        # Its state stays in memory: sums of nodes are not noised, and belong on no disk.
        command += ["--disable-runtime-dependency-installation"]
        self._run("superlink", [sys.executable, "-c", _FLOWER["superlink"], *command])

    def _start_supernode(self, number: int, superlink: Endpoint) -> None:
        command, reached = self._served(f"node-{number}")
        self.supernodes.append(reached)
        place = f"partition-id={number} num-partitions={self._nodes}"
        command += ["--superlink", superlink.address, "--node-config", place]
        if self.insecure:
            command.append("--insecure")
        else:
            command += ["--root-certificates", str(self.link["certificate"])]
            command += self._keys_of_node(number, superlink)
        self._run(f"supernode-{number}", [sys.executable, "-c", _FLOWER["supernode"], *command])

    def _keys_of_node(self, number: int, superlink: Endpoint) -> list[str]:
        """Make the private files of one node, and admit it; the words that name them.

        This is the one place where files are made for a single node.
        """
        path = self.folder / f"node-{number}-identity.key"
        flower_api.register(superlink, certificates.node_key(path))
        return ["--auth-supernode-private-key", str(path)]

    def _start_worker(self, number: int, place: Path, overrides: Sequence[str]) -> None:
        reached = dict(self.supernodes[number])
        reached["supernode"] = reached.pop("address")
        reached["shard"] = str(place.absolute())
        texts = {name: str(value) for name, value in reached.items() if value is not None}
        options = [f"{name}={value}" for name, value in texts.items()]
        command = [sys.executable, "-m", "userdp.sim.cli", "node", *options, *overrides]
        self._run(f"node-{number}", command)

    def _served(self, name: str) -> tuple[list[str], dict[str, Any]]:
        """The words that make a server listen and be known, and how it is reached."""
        port, secret = _free_port(), self.folder / f"{name}.secret"
        durable_file.replace(secret, os.urandom(_SECRET_BYTES), mode=certificates.PRIVATE)
        command = ["--isolation", "process", "--host", _HOST, "--port", str(port)]
        command += ["--superexec-auth-secret-file", str(secret)]
        reached = {"address": f"{_HOST}:{port}", "secret": str(secret), "insecure": self.insecure}
        if self._authority is None:
            return [*command, *(["--insecure"] if name == "superlink" else [])], reached
        signed = self._authority.sign(name)
        command += ["--ssl-certfile", str(signed.certificate), "--ssl-keyfile", str(signed.key)]
        command += ["--ssl-ca-certfile", str(signed.authority)]
        return command, {**reached, "certificate": str(signed.authority)}

    def _run(self, name: str, command: Sequence[str]) -> None:
        process = processes.start(name, command, self._log(name), _environment(self.folder))
        self.running.append(process)
        found = State(
            nodes=self._nodes,
            superlink=self.link,
            supernodes=self.supernodes,
            processes=tuple(self.running),
        )
        found.write(self.folder)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _are_ready(self) -> bool:
        logs = [self._log(f"node-{number}") for number in range(self._nodes)]
        return all(node.READY in log.read_text(encoding="utf-8", errors="replace") for log in logs)

    def _wait(self, what: str, there: Callable[[], bool]) -> None:
        """Wait until something is there.

        Raises:
            StoppedError: a process has ended, or it takes too long.
        """
        end = time.monotonic() + _LONGEST
        while not there():
            for process in self.running:
                if not process.runs:
                    raise StoppedError(
                        f"up: {process.name} has ended{_last_line(self._log(process.name))}"
                    )
            if time.monotonic() > end:
                raise StoppedError(
                    f"up: {what} did not answer within {_LONGEST:g} seconds; see {self.folder}."
                )
            time.sleep(_PAUSE)


def _online(endpoint: Endpoint) -> int | None:
    """The number of SuperNodes; None where the SuperLink does not answer yet."""
    try:
        return flower_api.online(endpoint, seconds=0.0)
    except flower_api.FAILED:
        return None


def _last_line(log: Path) -> str:
    """What a process that ended said last, where it is a line of ours; else where its log is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    ours = [line for line in lines if line.startswith("userdp: ")]
    return f": {ours[-1].removeprefix('userdp: ')}" if ours else f"; see {log}."


def _environment(folder: Path) -> dict[str, str]:
    """Flower's own folder inside ours; nothing is installed, sent home, or sent to a proxy."""
    return {
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        # At its usual level a SuperNode tells in which rounds it takes part, which is secret.
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "WARNING"),
        "NO_PROXY": f"{_HOST},localhost",
        "no_proxy": f"{_HOST},localhost",
    }


def _free_port() -> int:
    """A port of this machine that nothing listens at; taken a moment later by what we start."""
    with socket.socket() as listening:
        listening.bind((_HOST, 0))
        return int(listening.getsockname()[1])


def _print_next(
    folder: Path, federation: _Federation, server: Path, overrides: Sequence[str]
) -> None:
    nodes = len(federation.supernodes)
    given = [*shards.read(str(server)).words, "runtime=superlink", f"runtime.nodes={nodes}"]
    given += [word for word in overrides if word not in given]
    if not any(word.startswith("privacy.users=") for word in given):
        given.append("privacy.users=N")
    command = [
        *("userdp", "run", *given, *node.data_words(server.absolute())),
        words.override("runtime.options.federation", str(folder)),
    ]
    address = federation.link["address"]
    how = "without encryption" if federation.insecure else "encrypted, nodes known by their keys"
    print(f"federation: {nodes} nodes behind {address}, {how}; it ends by: userdp down {folder}")
    print(f"run on it:  {words.line(command)}")
