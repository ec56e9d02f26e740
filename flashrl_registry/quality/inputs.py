"""Linears that read fake-quantized inputs, for a while."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from flashrl_registry.documents import SchemeName
from flashrl_registry.quality.fake import fake_input


class QuantizedInputs(TorchFunctionMode):  # type: ignore[misc] # mypy does not read torch
    """Within it, every linear of a module that holds experts reads fake-quantized inputs: it has no submodules."""

    def __init__(self, scheme: SchemeName) -> None:
        super().__init__()
        self._scheme = scheme

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is functional.linear:
            args = (fake_input(self._scheme, args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


@contextmanager
def quantized_inputs(model: nn.Module, schemes: Mapping[str, SchemeName]) -> Iterator[None]:
    """Quantize the inputs of modules.

    Args:
        model: The model.
        schemes: Linear, or module that holds experts, to its scheme.
    """
    handles = []
    for name, scheme in schemes.items():
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(_linear_hook(scheme)))
        else:
            handles += _around(module, QuantizedInputs(scheme))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear_hook(scheme: SchemeName) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (fake_input(scheme, args[0]), *args[1:])

    return hook


def _around(module: nn.Module, mode: TorchFunctionMode) -> list[Any]:
    def enter(*_: Any) -> None:
        mode.__enter__()

    def leave(*_: Any) -> None:
        mode.__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
