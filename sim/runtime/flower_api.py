"""Claims tasks of Flower's SuperLink and SuperNodes as Flower's own executors do.

A SuperLink or a SuperNode that was started with ``--isolation process`` runs no app itself: it
gives each task to whoever asks for it, with a token, and carries messages for that token as long
as it hears a heartbeat. So the process of a run is its own ServerApp, and a process that has
loaded a model once is the ClientApp of all messages to a node. Neither installs, imports or runs
anything of the app bundle that comes with a task.

All internals of Flower that a deployment takes are used here and in `flower_node`, the part of the
node. They are those of 1.41, which ``pyproject.toml`` pins; where one has moved, an import fails
and names it.

Flower's own clients end the process by a signal where they are refused, and try for ever where
nobody answers. Ours raise the error, after a limited time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from flwr.app import Error, Message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

CLIENT_APP_RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
NODE_UNAVAILABLE = ErrorCode.NODE_UNAVAILABLE
# What a call raises where nobody answers, where it is refused, or where the run has ended.
FAILED = (httpx.HTTPError,)
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_BUSY, _UNKNOWN, _ENDED = (502, 503, 504), 401, 403
_LONGEST_WAIT = 2  # seconds between two tries
_AT_THE_END = 3.0  # seconds that a call may take which only tidies up

_Client = TypeVar("_Client", ControlHttpClient, RuntimeHttpClient)


@dataclass(frozen=True)
class Endpoint:
    """Where a SuperLink or a SuperNode listens, and by what both sides know each other."""

    address: str  # host:port
    certificate: bytes | None  # PEM, of the authority that signed its certificate; None: plain
    secret: bytes | None = None  # without it, no task is given away; None: it asks for none


def refusal(error: BaseException) -> str:
    """What a failed call says, without the text of the error, which may hold anything."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status == _UNKNOWN:
            return "it refuses, since the secret or the key is not the one expected"
        return "the run has ended there" if status == _ENDED else f"it refuses, status {status}"
    if isinstance(error, httpx.ConnectError) and _is_tls(error):
        return "its certificate is not the one expected, or it does not encrypt"
    return f"it does not answer ({type(error).__name__})"


def _is_tls(error: BaseException) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("certificate", "ssl", "tls"))


class _Version:
    """Sends Flower's version, as its own clients do, but ends no process where it does not fit."""

    def __init__(self) -> None:
        self._metadata = RuntimeVersionMetadata.from_local_component("flwr-serverapp")

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Add the headers."""
        add_headers(context.request, dict(self._metadata.as_metadata()))
        return call_next(context)


def retries(seconds: float) -> RetryInvoker:
    """Tries a call again where nobody answers, for so long; a refusal is final."""

    def is_final(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code not in _BUSY
        return _is_tls(error)

    return RetryInvoker(
        lambda: exponential(max_delay=_LONGEST_WAIT),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=seconds,
        should_giveup=is_final,
    )


def client_of(
    kind: type[_Client], endpoint: Endpoint, tries: RetryInvoker, token: str | None = None
) -> _Client:
    interceptors: list[Any] = [_Version()]
    if token is not None:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    elif endpoint.secret is not None:
        secret = SuperExecAuthHttpInterceptor(
            master_secret=endpoint.secret, protected_methods={_ACQUIRE}
        )
        interceptors.append(secret)
    return kind.from_server_address(
        endpoint.address,
        endpoint.certificate is None,
        endpoint.certificate,
        interceptors,
        retry_invoker=tries,
    )


@contextlib.contextmanager
def control(endpoint: Endpoint, seconds: float = 10.0) -> Iterator[ControlHttpClient]:
    """A client of a SuperLink's control interface.

    Args:
        seconds: for which a call is tried where nobody answers.
    """
    client = client_of(ControlHttpClient, endpoint, retries(seconds))
    try:
        yield client
    finally:
        client.close()


def online(endpoint: Endpoint, seconds: float = 10.0) -> int:
    """The number of SuperNodes that a SuperLink hears of.

    Raises:
        FAILED: it cannot be reached, or refuses.
    """
    with control(endpoint, seconds) as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return sum(node.status == "online" for node in nodes)


def show_secret(endpoint: Endpoint, seconds: float) -> None:
    """Ask for a task of no kind, which is given to nobody, but refused without the secret.

    Args:
        seconds: for which it is tried where nobody answers.

    Raises:
        FAILED: the secret is wrong, or the SuperLink cannot be reached.
    """
    client = client_of(RuntimeHttpClient, endpoint, retries(seconds))
    try:
        client.AcquireTask(AcquireTaskRequest())
    finally:
        client.close()


def register(endpoint: Endpoint, public_key: bytes) -> int:
    """Admit the SuperNode that holds the private key; returns its id.

    Args:
        public_key: in PEM, of a NIST curve.

    Raises:
        FAILED: the SuperLink cannot be reached, or refuses the key.
    """
    with control(endpoint) as client:
        return int(client.RegisterNode(RegisterNodeRequest(public_key=public_key)).node_id)


def bundle(pyproject: str) -> bytes:
    """Flower's app bundle of one file; equal files give equal bytes."""
    return build_fab_from_files({"pyproject.toml": pyproject.encode()})[0]


class LinkGrid(HttpGrid):
    """Flower's grid over a SuperLink, with calls that end by themselves.

    Args:
        endpoint: of the SuperLink.
        token: of the ServerApp's task.
        seconds: for which a call is tried where nobody answers.
    """

    def __init__(self, endpoint: Endpoint, token: str, seconds: float) -> None:
        super().__init__(
            endpoint.address,
            endpoint.certificate is None,
            endpoint.certificate,
            token=token,
        )
        self._retry_invoker = retries(seconds)
        self._client = client_of(RuntimeHttpClient, endpoint, self._retry_invoker, token)

    def online_since(self) -> dict[int, str]:
        """When each node that is online was heard of first, by its id."""
        nodes = self._runtime_client.GetNodes(GetNodesRequest()).nodes
        return {node.node_id: node.last_activated_at for node in nodes}

    def begin(self) -> None:
        """Take over the task: from here on, messages are those of its run."""
        task = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = task.task_id
        TaskIdentity.run_id = task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        self.set_run(run_from_proto(task.run))

    def end(self) -> None:
        """Report that the task is complete, which ends the run."""
        self._runtime_client.PushTaskOutput(
            PushTaskOutputRequest(context=None, sub_status=SubStatus.COMPLETED, details="")
        )

    def hurry(self) -> None:
        """Try each further call for a moment only: the run is over."""
        self._retry_invoker.max_time = _AT_THE_END

    def heartbeat(self) -> contextlib.AbstractContextManager[None]:
        """Keeps the task alive inside the block."""
        return heartbeat_of(self._runtime_client)


_Grid = TypeVar("_Grid", bound=LinkGrid)


@contextlib.contextmanager
def run(endpoint: Endpoint, fab: bytes, grid_class: type[_Grid], seconds: float) -> Iterator[_Grid]:
    """A run of a SuperLink whose ServerApp is this process.

    The run ends with the block; where the block ends by an error, or by Ctrl-C, it is stopped.

    Args:
        fab: of `bundle`; nodes get it, and need not look at it.
        grid_class: of the grid that carries the messages.
        seconds: for which a call is tried where nobody answers.

    Raises:
        FAILED: the SuperLink cannot be reached, or refuses.
    """
    with control(endpoint) as client:
        started = client.StartRun(StartRunRequest(fab=fab_to_proto(Fab("", fab, {}))))
        grid = None
        try:
            grid = grid_class(endpoint, _claimed(endpoint, started.run_id, seconds), seconds)
            with grid.heartbeat():
                grid.begin()
                yield grid
                grid.hurry()
                with contextlib.suppress(*FAILED):
                    grid.end()
        except BaseException:
            _stop(endpoint, started.run_id)
            raise
        finally:
            if grid is not None:
                grid.close()


def _claimed(endpoint: Endpoint, run: int, seconds: float) -> str:
    """The token of a run's ServerApp task.

    A task of another run, which a killed process may have left, is not begun; the SuperLink takes
    it back after half a minute.

    Raises:
        TimeoutError: it was not given away in time.
    """
    client = client_of(RuntimeHttpClient, endpoint, retries(seconds))
    request = AcquireTaskRequest(supported_task_types=[str(TaskType.SERVER_APP)])
    end = time.monotonic() + max(seconds, 60.0)
    try:
        while time.monotonic() < end:
            answer = client.AcquireTask(request)
            if answer.token and answer.task.run_id == run:
                return str(answer.token)
            if not answer.token:
                time.sleep(0.2)
    finally:
        client.close()
    raise TimeoutError("The SuperLink gave the run's task to another process.")


def _stop(endpoint: Endpoint, run: int) -> None:
    with contextlib.suppress(*FAILED), control(endpoint, _AT_THE_END) as client:
        client.StopRun(StopRunRequest(run_id=run))


@contextlib.contextmanager
def heartbeat_of(client: RuntimeHttpClient) -> Iterator[None]:
    def beat() -> bool:
        """Whether the next one may wait; Flower's own raises a signal where a task is over."""
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.TransportError:
            return False
        except FAILED:  # the task is over: whoever works on it learns that from its next call
            return True
        return True

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        sender.stop()


def error_reply(message: Message, code: int, reason: str) -> Message:
    """Flower's error reply to a message."""
    return Message(Error(code, reason), reply_to=message)


def batches(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """The names in lists of at most ``size``."""
    some = list(names)
    for start in range(0, len(some), size):
        yield some[start : start + size]
