"""Starts a Triton kernel; one that was started before with arguments of the same kind, without asking Triton for it.

Triton looks at every argument of every call to find the compiled kernel, which takes longer than most weights take to
quantize. The kinds of arguments of a model's weights are few and return at each update.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_COMPILED: dict[tuple[Any, ...], Any] = {}


class Recording:
    """The launches of one call of an operation, to be made again with other tensors in the place of some.

    Nothing is looked at when they are made again: the caller makes sure that the others are of the same dtype, shape,
    strides and alignment, and on the current device.

    Args:
        operation: Called once, at once.
        stand_ins: Tensors that it is given and whose place others will take; none shares memory with another.

    Attributes:
        complete: The launches are all that the operation does.
    """

    def __init__(self, operation: Callable[[], Any], *stand_ins: Tensor) -> None:
        self._indices = {tensor.data_ptr(): index for index, tensor in enumerate(stand_ins)}
        self._launches: list[tuple[Any, tuple[int, int, int], list[Any], list[tuple[int, int]]]] = []
        self.complete = True
        _RECORDINGS.append(self)
        try:
            operation()
        finally:
            _RECORDINGS.remove(self)

    def add(self, compiled: Any, grid: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Take note of a launch; one that was not compiled cannot be made again."""
        self.complete = self.complete and hasattr(compiled, "function")
        kept, others = list(arguments), []
        for place, argument in enumerate(arguments):
            if isinstance(argument, Tensor) and argument.data_ptr() in self._indices:
                others.append((place, self._indices[argument.data_ptr()]))
                kept[place] = None
        self._launches.append((compiled, (*grid, 1), kept, others))

    def again(self, *tensors: Tensor) -> None:
        """Make the launches again, with these tensors in the order of the stand-ins."""
        for compiled, grid, kept, others in self._launches:
            arguments = kept.copy()
            for place, index in others:
                arguments[place] = tensors[index]
            compiled[grid](*arguments)


_RECORDINGS: list[Recording] = []


def not_launches_alone() -> None:
    """An operation does more than its launches, so that they cannot be made again by themselves."""
    for recording in _RECORDINGS:
        recording.complete = False


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
        for recording in _RECORDINGS:
            recording.add(compiled, grid, (*arguments, *constants.values()))
        compiled[(*grid, 1)](*arguments, *constants.values())
        return
    # A product that is rounded before it is added to something stays so.
    made = kernel[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)
    if hasattr(made, "function"):  # neither the interpreter, which returns nothing, nor a compilation under way
        _COMPILED[key] = made
    for recording in _RECORDINGS:
        recording.add(made, grid, (*arguments, *constants.values()))


def _kind(argument: Tensor | int | None) -> Any:
    """All that a kernel is compiled for, and more: numbers count as they are."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return argument
