"""Compiles the Triton kernels for NVIDIA GPUs of some generations, without one; prints JSON."""

from __future__ import annotations

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from userdp.clients.kernels import lane_products_triton, row_sums_triton

GENERATIONS = [80, 90, 100]


def code(kernel, pointers, constants, generation):
    """PTX of a kernel; arguments that are neither pointers nor constants are 32-bit integers."""
    names = dict.fromkeys(kernel.arg_names, "i32")
    names |= pointers | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=names, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", generation, 32)).asm["ptx"]


def products(dtype, generation):
    """Of `lane_products_triton`."""
    pointers = {"left": f"*{dtype}", "right": f"*{dtype}"}
    pointers |= dict.fromkeys(("starts", "owners", "further"), "*i32")
    pointers |= {"out": "*fp32", "partial": "*fp32"}
    sizes = {"PIECE": 1024, "ROWS": 32, "P": 16, "Q": 128}
    sizes |= {"left_column": 1, "right_column": 1, "out_column": 1}
    return code(lane_products_triton._kernel, pointers, sizes, generation)


def added(generation):
    """Of further pieces in `lane_products_triton`."""
    pointers = {"further": "*i32", "partial": "*fp32", "out": "*fp32"}
    sizes = {"P": 16, "Q": 128, "out_column": 1}
    return code(lane_products_triton._adding, pointers, sizes, generation)


def sums(generation):
    """Of `row_sums_triton`, both."""
    pointers = {"rows": "*fp32", "out": "*fp64"}
    yield code(row_sums_triton._squares, pointers, {"BLOCK": 1024, "STEPS": 16}, generation)
    pointers |= {"factors": "*fp64", "counted": "*i8"}
    for whole in (False, True):
        constants = {"WHOLE": whole, "BLOCK": 256, "column": 1}
        yield code(row_sums_triton._weighted, pointers, constants, generation)


if __name__ == "__main__":
    found = {}
    for generation in GENERATIONS:
        ptx = [products(dtype, generation) for dtype in ("fp32", "bf16")]
        found[generation] = {
            "products": ["tensor core" if "mma" in part else "plain" for part in ptx],
            "atomic": [" atom." in part or " red." in part for part in (*ptx, added(generation))],
            "sums": ["f64" in part for part in sums(generation)],
        }
    print(json.dumps(found))
