"""Puts Flower's simulation engine together: its state, its workers, and its pool of Ray actors.

Flower's own entry, `run_simulation`, is deprecated, holds the process until a ServerApp returns,
and writes the texts of errors to its log. The parts below are internal to Flower: its version is
pinned, this is the one file that uses them, and an import that fails is told in one line
(`userdp.sim.runtime.ray`). A message goes from the grid into Flower's state, from there to one of
its workers (a thread an actor), and by Ray to an actor; the reply comes back the same way.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import psutil
import ray
from flwr.app import Context, Error, Message
from flwr.clientapp.client_app import ClientAppException
from flwr.common.constant import RUN_ID_NUM_BYTES, SUPERLINK_NODE_ID, TASK_ID_NUM_BYTES
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.server.superlink.linkstate.utils import generate_rand_int_from_bytes
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from userdp.sim.runtime.in_process import CLIENT_APP_RAISED
from userdp.sim.runtime.resident import Handler

_LOG = logging.getLogger("userdp")
_PAUSE = 0.02  # seconds between two looks for replies
_PATIENCE = 15.0  # seconds for threads and processes to end, before they are ended by force
# Ray starts a process again that died, as often as this in a run, and gives the new one the message
# that the old one had. More deaths than this have a cause that does not pass by itself.
_RESTARTS, _RETRIES = 10, 1
_LONGEST_FOLDER = 20  # characters: the path of a socket inside has at most 107
_FLOWERS_WORDS = ClientAppException("").message  # before the text of every error of an app


def running() -> bool:
    """Whether this process uses Ray."""
    return bool(ray.is_initialized())


@contextlib.contextmanager
def engine(
    app: Callable[[], Handler], nodes: int, actors: int, cpus: int, gpus: float
) -> Iterator[InMemoryGrid]:
    """Start Ray and Flower's engine; end both, and wait until their processes are gone.

    Args:
        app: called in an actor for every message, it returns what serves the message; pickled.
        nodes: number of Flower nodes.
        actors: number of processes.
        cpus: cores of each process, as Ray counts them; it starts as many threads in each.
        gpus: of each process.
    """
    with _quiet(), _temporary_folder() as folder:
        try:
            pool = _Pool(_settings(folder, actors, cpus, gpus))
            state, run = _state()
            stop = threading.Event()
            thread = _thread(pool, app, nodes, state, run, stop)
            try:
                yield _Grid(state, run, thread)
            finally:
                stop.set()
                pool.end()
                thread.join(_PATIENCE)
        finally:
            _end_ray(folder)


class _Pool(RayBackend):
    """Flower's pool of actors, whose errors become replies without texts of other packages."""

    _ending = False

    def init_ray(self, backend_config: Any) -> None:
        """Start Ray; as Flower does it, but for what this would change in the process for good."""
        before = signal.getsignal(signal.SIGTERM)
        try:
            with _import_path_handed_on(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**backend_config["init_args"])
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """The reply of an actor and the node's context; an error is Flower's error reply."""
        try:
            return super().process_message(message, context)
        except Exception as error:
            reason = _reason(error)
            if not self._ending:
                _LOG.error("A node failed: %s.", reason)
            return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message), context

    def end(self) -> None:
        """End the actors, whatever they are at: threads that wait for them go on."""
        self._ending = True
        if self.pool is not None:
            actors: list[Any] = [*self.pool.pool, *self.pool._future_to_actor.values()]
            for actor in actors:
                ray.kill(actor, no_restart=True)

    def terminate(self) -> None:
        """Nothing: Ray is ended by the thread that started it."""


class _Grid(InMemoryGrid):
    """Flower's grid, which yields each reply when it is there and ends if the engine does."""

    def __init__(self, state: LinkStateFactory, run: Run, engine: threading.Thread) -> None:
        super().__init__(state)
        self.set_run(run)
        self._engine = engine

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """The replies in the order in which they come; the messages are sent at once.

        Raises:
            RuntimeError: the engine does not take a message, or has stopped; the second is raised
                while the replies are read.
        """
        sent = list(messages)
        waiting = set(self.push_messages(sent))
        if len(waiting) != len(sent):
            raise RuntimeError("Flower's engine does not take a message.")
        return self._replies(waiting, timeout)

    def _replies(self, waiting: set[str], timeout: float | None) -> Iterator[Message]:
        end = math.inf if timeout is None else time.monotonic() + timeout
        while waiting and time.monotonic() < end:
            alive = self._engine.is_alive()  # before the look: what it left is still read
            found = list(self.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            while found:
                yield found.pop(0)  # not held here while the next ones are added up
            if waiting and not alive:
                raise RuntimeError("Flower's engine has stopped.")
            time.sleep(_PAUSE if waiting else 0)


def _reason(error: BaseException) -> str:
    """What an error reply says: an app's own text, which quotes no record, or a class alone."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ClientAppException):  # of `resident.app`
        return cause.message.replace(_FLOWERS_WORDS, "")
    return f"{type(cause).__name__}, its process ended or could not be reached"


def _settings(folder: str, actors: int, cpus: int, gpus: float) -> Any:
    """Flower's settings of its pool: Ray has exactly what the actors ask for."""
    return {
        "init_args": {
            "address": "local",  # and not a cluster that RAY_ADDRESS names
            "num_cpus": actors * cpus,
            "num_gpus": math.ceil(actors * gpus),
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.CRITICAL,
            "_temp_dir": folder,
        },
        "client_resources": {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": _RESTARTS,
            "max_task_retries": _RETRIES,
        },
    }


def _state() -> tuple[LinkStateFactory, Run]:
    """Flower's state in memory with one run, whose task is this process."""
    factory = LinkStateFactory(
        FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
    )
    run = Run.create_empty(generate_rand_int_from_bytes(RUN_ID_NUM_BYTES))
    task = run.primary_task_id = generate_rand_int_from_bytes(TASK_ID_NUM_BYTES)
    run.federation_id = NOOP_FEDERATION_ID
    state = cast(InMemoryLinkState, factory.state())
    state.run_ids[run.run_id] = RunRecord(run=run)
    state.task_store[task] = Task(task_id=task, run_id=run.run_id)
    TaskIdentity.task_id, TaskIdentity.run_id = task, run.run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return factory, run


def _thread(
    pool: _Pool,
    app: Callable[[], Handler],
    nodes: int,
    state: LinkStateFactory,
    run: Run,
    stop: threading.Event,
) -> threading.Thread:
    """The engine, at work in a thread of its own until ``stop`` is set."""
    places = vce_api._register_nodes(nodes, state)
    stores = vce_api._register_node_info_stores(places, run)
    call: Any = vce_api.run_api  # it wants a ClientApp, and calls what it gets as one
    arguments = (app, lambda: pool, places, state, stores, stop, VceMetrics())
    thread = threading.Thread(target=_told, args=(call, arguments), daemon=True)
    thread.start()
    return thread


def _told(call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        call(*arguments)
    except Exception as error:  # the grid finds the thread ended; an uncaught error is printed
        _LOG.error("Flower's engine has stopped: %s.", type(error.__cause__ or error).__name__)


@contextlib.contextmanager
def _import_path_handed_on() -> Iterator[None]:
    """Processes that start in this block find the modules that this one finds.

    The environment is as before afterwards, without what Ray adds to it.
    """
    before, name = dict(os.environ), "PYTHONPATH"
    known = [os.environ[name]] if name in os.environ else []
    os.environ[name] = os.pathsep.join([*filter(None, sys.path), *known])
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's log silent, which has the texts of errors, and Ray's notices of deaths."""
    log, notices = logging.getLogger("flwr"), "_worker_logs_enabled"
    level, told = log.level, getattr(ray._private.worker, notices)
    log.setLevel(logging.CRITICAL + 1)
    setattr(ray._private.worker, notices, False)
    try:
        yield
    finally:
        log.setLevel(level)
        setattr(ray._private.worker, notices, told)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """Ray's files: sockets, logs, and messages that found no room in memory; removed at the end."""
    usual = tempfile.gettempdir()
    place = usual if len(usual) <= _LONGEST_FOLDER else "/tmp"
    folder = tempfile.mkdtemp(prefix="userdp-ray-", dir=place)  # readable by its owner alone
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_ray(folder: str) -> None:
    """End Ray, and wait until its processes are gone, which hold memory and the GPUs."""
    processes = _processes(folder)
    ray.shutdown()
    _, alive = psutil.wait_procs(processes, timeout=_PATIENCE)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_PATIENCE)


def _processes(folder: str) -> list[psutil.Process]:
    """The processes below this one whose command names the folder, and those below them."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(folder in word for word in process.cmdline()):
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())
