"""Starts a Triton kernel; one that was started before with arguments of the same kind, without asking Triton for it.

Triton looks at every argument of every call to find the compiled kernel, which takes longer than most weights take to
quantize. The kinds of arguments of a model's weights are few and return at each update.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_COMPILED: dict[tuple[Any, ...], Any] = {}


def launch(
    kernel: Any, grid: tuple[int, int], arguments: Sequence[Tensor | int | None], constants: dict[str, int], warps: int
) -> None:
    """Start a kernel on the current stream of its first argument's device.

    Args:
        kernel: Its constants come last, in the order in which they are given here.
        grid: Programs on two axes.
        arguments: The first is a tensor.
        constants: What it is compiled for.
        warps: Of a program.
    """
    device = arguments[0].device  # type: ignore[union-attr]
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):  # Triton takes the current device
            _launch(kernel, grid, arguments, constants, warps)
    else:
        _launch(kernel, grid, arguments, constants, warps)


def _launch(
    kernel: Any, grid: tuple[int, int], arguments: Sequence[Tensor | int | None], constants: dict[str, int], warps: int
) -> None:
    device = arguments[0].device  # type: ignore[union-attr]
    key = (kernel, device, warps, *constants.values(), *map(_kind, arguments))
    compiled = _COMPILED.get(key)
    if compiled is not None:
        compiled[(*grid, 1)](*arguments, *constants.values())
        return
    # A product that is rounded before it is added to something stays so.
    made = kernel[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)
    if hasattr(made, "function"):  # neither the interpreter, which returns nothing, nor a compilation under way
        _COMPILED[key] = made


def _kind(argument: Tensor | int | None) -> Any:
    """All that a kernel is compiled for, and more: numbers count as they are."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return argument
