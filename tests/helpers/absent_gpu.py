"""A GPU that is not there: tensors that say ``cuda:0``, hold values, and obey a GPU's rules.

`Far` is a tensor whose Python device is ``cuda:<index>`` and whose values lie in a CPU tensor. For
PyTorch's C++ code it is a ``meta`` tensor, the one kind beside the CPU's that a build without CUDA
can differentiate. Every operation on one comes by `Far.__torch_dispatch__`, which holds it to the
rules of `helpers.gpu_rules` and computes it on the CPU. New tensors on ``cuda:0``, of Python or of
C++ code, come from factories that are registered with the dispatcher while `absent_gpu` is open.

So product code runs as it is, its branches for ``device.type == "cuda"`` included, in all its
threads, and gives values that can be compared with the CPU's. What was compared with it:

- FakeTensorMode with ``device="cuda"`` cannot differentiate in a build without CUDA, and has no
  values, so the rounds of a strategy end at their first figure.
- ``meta`` tensors have no values either, and ``meta @ cpu`` passes.
- PyTorch's ``privateuse1`` stays registered as the process's accelerator, which other tests would
  inherit; and product code would not take its branches for a GPU.

A copy to the CPU with ``non_blocking`` arrives at the next wait, and holds NaN (or a number that is
no index) before, as new memory does: a value that is read too early is seen.

What it cannot show: whether a GPU has a kernel, and whether it is right or fast; the order between
streams; how much memory is taken; whether pinned memory is given back too early.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from helpers.gpu_rules import Rules, WrongDeviceError, leaves
from userdp.clients.kernels import self_check

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
FREE_BYTES = 1 << 34  # of each absent GPU

# Factories that PyTorch's own code reaches with a device alone; all others call one of these.
_FACTORIES = (
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye",
    "eye.m", "full", "ones", "zeros", "scalar_tensor", "linspace", "tril_indices", "triu_indices",
)  # fmt: skip

_open: list[Rules] = []  # of the open context, at most one


def rules() -> Rules:
    """The rules of the open context."""
    return _open[-1]


class Far(Tensor):
    """A tensor on an absent GPU.

    Args:
        near: its values, a CPU tensor of the same size, strides and type.
        index: of the GPU.
    """

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor, index: int = 0) -> Far:
        return Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=torch.device("meta", index),
        )

    def __init__(self, near: Tensor, index: int = 0) -> None:
        self.near, self.index = near, index

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.index)

    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.near!r}, device={self.device})"

    def tolist(self) -> Any:
        rules().wait("tolist", self.index)
        return self.near.tolist()

    def numpy(self, **_: Any) -> Any:
        raise rules().fault(WrongDeviceError("numpy() of a tensor on a GPU"))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise rules().fault(WrongDeviceError("a numpy array of a tensor on a GPU"))

    def pin_memory(self, *_: Any) -> Tensor:
        raise rules().fault(WrongDeviceError("pin_memory() of a tensor on a GPU"))

    def data_ptr(self) -> int:
        return 0  # copy.deepcopy copies a tensor at 0 by clone()

    def __tensor_flatten__(self) -> tuple[list[str], int]:
        """For TorchDynamo."""
        return ["near"], self.index

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], index: int, *_: Any) -> Far:
        return Far(inner["near"], index)

    @classmethod
    @torch.compiler.disable
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _SPECIAL.get(func, functools.partial(_computed, func))(*args, **(kwargs or {}))


def _computed(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of an operation on the GPU of its tensors."""
    given = [leaf for leaf in leaves((args, kwargs.values())) if isinstance(leaf, Tensor)]
    given += [value for value in kwargs.values() if isinstance(value, Tensor)]
    index = rules().check(func, args, given)
    near = {name: _nearer(value) for name, value in kwargs.items() if name != "pin_memory"}
    if near.get("device") is not None:
        if near["device"].type == "cpu":  # as ``new_zeros`` for another device
            return func(*map(_nearer, args), **near)
        near["device"] = CPU
    out = func(*map(_nearer, args), **near)
    if _writes_first(func):
        return args[0]
    return kwargs["out"] if "out" in kwargs else _farther(func, out, index)


def _nearer(value: Any) -> Any:
    """The values of an argument's tensors."""
    if isinstance(value, Far):
        return value.near
    return type(value)(map(_nearer, value)) if isinstance(value, list | tuple) else value


def _farther(func: Any, value: Any, index: int) -> Any:
    """A result on the GPU."""
    if isinstance(value, Tensor):
        rules().check_result(func, value)
        return Far(value, index)
    if isinstance(value, list | tuple):
        return type(value)(_farther(func, item, index) for item in value)
    return value


@functools.cache
def _writes_first(func: Any) -> bool:
    """Whether an operation changes its first argument and returns it."""
    arguments = func._schema.arguments
    first = arguments[0].alias_info if arguments else None
    return first is not None and first.is_write and bool(func._schema.returns)


def _to_copy(
    source: Tensor,
    *,
    device: torch.device | None = None,
    non_blocking: bool = False,
    pin_memory: bool | None = None,
    **options: Any,
) -> Tensor:
    """``to``: to another type, to the CPU, or from one GPU to another."""
    index = source.index if isinstance(source, Far) else 0
    made: Tensor = torch.ops.aten._to_copy.default(_nearer(source), **options)
    if device is not None and device.type == "cpu":
        return rules().to_cpu(made, index, non_blocking=non_blocking)
    rules().launch("to", index)
    rules().check_result("to", made)
    return Far(made, index if device is None else device.index or 0)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """``copy_`` on one device, or between a GPU and the CPU."""
    if isinstance(target, Far):
        if isinstance(source, Far):
            rules().launch("copy_", target.index)
        else:
            pinned = non_blocking and is_pinned(source)
            rules().to_gpu("copy_", target.index, asynchronous=pinned)
        target.near.copy_(_nearer(source))
    elif isinstance(source, Far):
        rules().to_cpu(source.near, source.index, non_blocking=False)
        target.copy_(source.near)
    return target


def _below(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """``copy_`` of C++ code that makes a tensor of Python numbers: a copy of pageable memory."""
    return _copy(target, source)


_SPECIAL: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._to_copy.default: _to_copy,
    torch.ops.aten.copy_.default: _copy,
}


def _factory(make: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A new tensor on a GPU; what is empty holds no number that a computation survives."""
    device = kwargs.pop("device", None)
    kwargs.pop("pin_memory", None)
    near = make(*args, device=CPU, **kwargs)
    if "empty" in str(make):
        near.fill_(torch.nan if near.dtype.is_floating_point else 2**7 - 1)
    index = 0 if device is None or device.index is None else device.index
    rules().launch(str(make), index)
    return Far(near, index)


class _Factories:
    """The factories of absent GPUs, for Python's ``cuda`` and for C++ code, which says ``meta``.

    While TorchDynamo traces, its fake tensors need the ``meta`` device as it is.
    """

    def __init__(self) -> None:
        self._libraries: dict[str, torch.library.Library] = {}

    def register(self, *_: Any) -> None:
        for key in {"CUDA", "Meta"} - set(self._libraries):
            library = self._libraries[key] = torch.library.Library("aten", "IMPL")
            for name in _FACTORIES:
                packet, _, overload = name.partition(".")
                make = getattr(getattr(torch.ops.aten, packet), overload or "default")
                library.impl(name, functools.partial(_factory, make), key)
            if key == "Meta":
                library.impl("copy_", _below, key)

    def remove(self, *keys: str) -> None:
        for key in keys or list(self._libraries):
            self._libraries.pop(key)._destroy()

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        tracing = torch._dynamo.callback_handler
        start, end = (lambda _: self.remove("Meta")), self.register
        self.register()
        tracing.register_start_callback(start)
        tracing.register_end_callback(end)
        try:
            yield
        finally:
            tracing.remove_start_callback(start)
            tracing.remove_end_callback(end)
            self.remove()


class _Event:
    """In place of ``torch.cuda.Event``: copies that were queued before it arrive."""

    def record(self, *_: Any) -> None:
        """Behind all that is queued; what is queued later is not told apart."""

    def synchronize(self) -> None:
        rules().land()


def pin(tensor: Tensor, *_: Any) -> Tensor:
    """A copy in pinned memory."""
    copied = tensor.clone()
    copied._in_pinned_memory = True  # type: ignore[attr-defined]
    return copied


def is_pinned(tensor: Tensor, *_: Any) -> bool:
    """Whether a CPU tensor is in pinned memory; a view of one counts as pageable."""
    return getattr(tensor, "_in_pinned_memory", False)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Fused attention in the precision of its inputs, as a GPU has it.

    The composite that PyTorch has for other devices would compute bfloat16 in float32.
    """
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zeros = torch.zeros(attn_mask.shape, dtype=query.dtype, device=attn_mask.device)
        attn_mask = zeros.masked_fill(~attn_mask, -torch.inf)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mixed: Tensor
    mixed, _ = fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
    return mixed


def _fused(otherwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(otherwise)
    def attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        chosen = _attention if query.is_cuda else otherwise
        return chosen(query, *args, **kwargs)

    return attention


def _patches() -> Iterator[tuple[Any, str, Any]]:
    """What takes the place of functions that need CUDA."""
    nothing = lambda *_, **__: None  # noqa: E731
    for name in ("_lazy_init", "empty_cache", "reset_peak_memory_stats"):
        yield torch.cuda, name, nothing
    yield torch.cuda, "max_memory_allocated", lambda *_: 1 << 20
    yield torch.cuda, "mem_get_info", lambda *_: (FREE_BYTES, FREE_BYTES)
    yield torch.cuda, "device", lambda *_: contextlib.nullcontext()
    yield torch.cuda, "Event", _Event
    yield self_check, "has_triton", lambda: False  # it has no kernels, whatever is installed
    yield Tensor, "pin_memory", pin
    yield Tensor, "is_pinned", is_pinned
    functional = torch.nn.functional
    attention = functional.scaled_dot_product_attention
    yield functional, "scaled_dot_product_attention", _fused(attention)


_ONE = threading.Lock()


@contextlib.contextmanager
def absent_gpu() -> Iterator[Rules]:
    """Absent GPUs ``cuda:0``, ``cuda:1``, ... while the context is open.

    A fault is raised where it happens, and once more at the end, should something have caught it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ONE)
        for patch in _patches():
            stack.enter_context(mock.patch.object(*patch))
        _open.append(Rules())
        stack.callback(_open.pop)
        stack.enter_context(_Factories().registered())
        stack.enter_context(rules().watching())
        yield rules()
        rules().raise_first()
