"""Rules that code on a CPU can break unseen: one device, no hidden wait, one precision.

1. *One device.* All tensors of an operation are on one GPU. A CPU tensor of one number may take
   part in an elementwise operation, as on a real GPU: it goes as an argument of the kernel.
2. *No hidden wait.* Within a round (`cohort_update.cohort_sum`) a thread that has waited for work
   of a GPU starts no more work there. So all waits come after the last kernel of the round. A wait
   is whatever needs a value or a size on the host: ``item()``, ``tolist()``, ``cpu()``, a boolean
   mask as an index, and a copy from pageable memory. Where no work is queued, nothing is waited
   for: the adapter may be copied before the first stack.
3. *One precision.* Within a pass (`LanguageModel.gradients`) matrix products are in the base
   model's precision, and nothing is float64. A product over one term is no contraction (rotary
   angles are float32 in every precision), and a product of two vectors (the loss) may be float32.
   The gradients and losses that a pass returns are float32; sum, norms and factors of a clip, and
   the sum of a round, are float64.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from userdp.clients.models.language_model import LanguageModel
from userdp.clients.training import clipping, cohort_update

_HELPERS = str(Path(__file__).parent)


class FaultError(AssertionError):
    """Something that a GPU would refuse, or that would cost it time or precision."""


class WrongDeviceError(FaultError):
    """An operation takes tensors of different devices."""


class HiddenWaitError(FaultError):
    """The host waits for the GPU inside a round, and gives it more work afterwards."""


class WrongDtypeError(FaultError):
    """A computation is not in the precision that it is meant to be in."""


_CONTRACTIONS = {"mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "linear", "matmul", "convolution"}
_VECTORS = {"dot", "mv", "addmv"}
_LEFT = {"addmm": 1, "baddbmm": 1}  # the position of a product's left factor, if not the first
_SCALARS = {"fill_", "masked_fill", "masked_fill_", "where", "index_fill", "index_fill_"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_UNKNOWN = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def leaves(args: Any) -> Iterator[Any]:
    """All values of an operation's arguments, those of lists included."""
    for value in args:
        if isinstance(value, list | tuple):
            yield from leaves(value)
        else:
            yield value


class Rules:
    """What is checked while an absent GPU is open, and what was seen.

    Attributes:
        waits: what waited for queued work within rounds, and where, in order.
        launches: operations within rounds.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.launches = 0
        self._faults: list[FaultError] = []
        self._lock = threading.RLock()
        self._queued: dict[int, bool] = {}  # by GPU: work that no one has waited for
        self._waited: dict[tuple[int, int], str] = {}  # by thread and GPU, in this round
        self._flights: list[tuple[Tensor, Tensor]] = []  # copies to the CPU that are on their way
        self._rounds = 0  # that are open
        self._pass = threading.local()

    def fault(self, error: FaultError) -> FaultError:
        """Note a fault, which is then raised."""
        error = type(error)(f"{error}; at {_place()}")
        self._faults.append(error)
        return error

    def raise_first(self) -> None:
        """Raise the first fault, if there was one that something has caught."""
        if self._faults:
            raise self._faults[0]

    def launch(self, name: str, index: int) -> None:
        """Queue work on a GPU."""
        with self._lock:
            self._queued[index] = True
            if not self._rounds:
                return
            self.launches += 1
            before = self._waited.get((threading.get_ident(), index))
        if before is not None:
            raise self.fault(HiddenWaitError(f"{before} was waited for before {name}"))

    def wait(self, what: str, index: int) -> None:
        """Wait for all work of a GPU; copies to the CPU arrive."""
        with self._lock:
            self.land()
            if self._queued.get(index) and self._rounds:
                seen = f"{what} at {_place()}"
                self.waits.append(seen)
                self._waited.setdefault((threading.get_ident(), index), seen)
            self._queued[index] = False

    def land(self) -> None:
        """Let the copies to the CPU arrive, as at the event behind them."""
        with self._lock:
            for target, value in self._flights:
                target.copy_(value)
            self._flights.clear()

    def to_cpu(self, value: Tensor, index: int, *, non_blocking: bool) -> Tensor:
        """A copy on the CPU, which arrives with the next wait where it does not block."""
        if not non_blocking:
            self.wait("a copy to the CPU", index)
            return value
        late = torch.full_like(value, torch.nan if value.is_floating_point() else 2**7 - 1)
        with self._lock:
            self._queued[index] = True
            self._flights.append((late, value))
        return late

    def to_gpu(self, name: str, index: int, *, asynchronous: bool) -> None:
        """A copy from the CPU: queued from pinned memory, otherwise waited for by the host."""
        if not asynchronous:
            self.wait("a copy from pageable memory", index)
        self.launch(name, index)
        if not asynchronous:
            self._queued[index] = False

    def check(self, func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> int:
        """Hold one operation to the rules; returns the GPU that computes it."""
        name, pointwise, unknown, is_view = _facts(func)
        index = self._one_device(name, pointwise, tensors)
        if getattr(self._pass, "dtype", None) is not None:
            self._one_precision(name, args, tensors)
        if name != "_local_scalar_dense" and not is_view:  # a copy of one number, and no work
            self.launch(name, index)
        if _masks(args) if name in _INDEXING else unknown:
            self.wait(name, index)
        return index

    def _one_device(self, name: str, pointwise: bool, tensors: Sequence[Tensor]) -> int:
        places = set()
        for tensor in tensors:
            if tensor.is_cuda or not (pointwise and tensor.dim() == 0):
                places.add(tensor.device)
        if len(places) != 1 or next(iter(places)).type != "cuda":
            where = ", ".join(sorted(map(str, places)))
            raise self.fault(WrongDeviceError(f"{name} of tensors on {where}"))
        index: int = places.pop().index
        return index

    def _one_precision(self, name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
        base = self._pass.dtype
        found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        if torch.float64 in found:
            raise self.fault(WrongDtypeError(f"{name} in float64 within a pass"))
        wrong = name in _VECTORS and not found <= {base, torch.float32}
        if name in _CONTRACTIONS and found != {base}:
            wrong = args[_LEFT.get(name, 0)].shape[-1] > 1
        if wrong:
            raise self.fault(WrongDtypeError(f"{name} of {_names(found)} in a {base} model"))

    def check_result(self, name: object, tensor: Tensor) -> None:
        """Hold the result of an operation to the precision of a pass."""
        if tensor.dtype == torch.float64 and getattr(self._pass, "dtype", None) is not None:
            raise self.fault(WrongDtypeError(f"{name} gives float64 within a pass"))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Notice rounds, passes and clips of the product."""
        with contextlib.ExitStack() as stack:
            for where, name, around in (
                (cohort_update, "cohort_sum", self._round),
                (LanguageModel, "gradients", self._one_pass),
                (clipping, "find", self._found_rule),
            ):
                replaced = _around(getattr(where, name), around)
                stack.enter_context(mock.patch.object(where, name, replaced))
            yield

    def _round(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._rounds += 1
            self._waited.clear()
        try:
            found = compute(*args, **kwargs)
        finally:
            with self._lock:
                self._rounds -= 1
                self._waited.clear()
        self._expect(found.total, "float64", "the sum of a round")
        return found

    def _one_pass(self, compute: Callable[..., Any], model: Any, *args: Any) -> Any:
        self._pass.dtype = model.module.dtype
        try:
            rows, loss = compute(model, *args)
        finally:
            self._pass.dtype = None
        self._expect(rows, torch.float32, "a pass' gradient")
        self._expect(loss, torch.float32, "a pass' loss")
        return rows, loss

    def _found_rule(self, find: Callable[..., Any], name: str) -> Any:
        rule = find(name)

        def checked(rows: Tensor, *rest: Any) -> Any:
            self._expect(rows, torch.float32, "an update before the clip")
            clipped = rule(rows, *rest)
            for field in ("total", "norms", "factors"):
                self._expect(getattr(clipped, field), torch.float64, f"a clip's {field}")
            return clipped

        return checked

    def _expect(self, array: Any, dtype: object, what: str) -> None:
        if array.dtype != dtype:
            raise self.fault(WrongDtypeError(f"{what} is {array.dtype}, not {dtype}"))


def _around(compute: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return around(compute, *args, **kwargs)

    return replaced


@functools.cache
def _facts(func: Any) -> tuple[str, bool, bool, bool]:
    """Name; whether it takes CPU scalars; whether the host needs a value or size; whether a view.

    ``repeat_interleave`` of a tensor alone is an operation whose size depends on values, too.
    """
    name = func._schema.name.removeprefix("aten::")
    pointwise = torch.Tag.pointwise in func.tags or name in _SCALARS
    return name, pointwise, bool(_UNKNOWN & set(func.tags)), func.is_view


def _masks(args: Sequence[Any]) -> bool:
    """Whether the indices of an operation are masks, whose size the host has to read.

    One number for all that a single mask covers is written without it.
    """
    masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    fills = len(args) > 2 and args[2].numel() == 1 and len(args[1]) == 1
    return bool(masks) and not fills


def _names(dtypes: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _place() -> str:
    """File, line and function of the innermost frames that are not PyTorch's or of the rules."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if "/torch/" not in frame.filename and not frame.filename.startswith(_HELPERS)
    ]
    return " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[:-4:-1]
    )
