"""Where a checkpoint's tensors are in transformers' model.

Linears have the checkpoint's own names. Experts do not: transformers 5 stacks those of a layer into ``gate_up_proj``
and ``down_proj``. What is in neither form is left out by name, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import Inventory

_GATE, _UP, _DOWN = ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")
STACKS = ("gate_up_proj", "down_proj")


@dataclass(frozen=True)
class Place:
    """Where one weight is.

    Attributes:
        module: The linear, or the module that holds all experts of the layer.
        parameter: Name of the parameter in the model.
        expert: Index in the parameter's first dimension; None for a linear of its own.
        rows: Rows of that matrix; None means all.
    """

    module: str
    parameter: str
    expert: int | None = None
    rows: slice | None = None

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The weight, as a view."""
        value = parameters[self.parameter]
        matrix = value if self.expert is None else value[self.expert]
        return matrix if self.rows is None else matrix[self.rows]


def find_places(model: nn.Module, inventory: Inventory, names: list[str]) -> tuple[dict[str, Place], dict[str, str]]:
    """Find linear weights.

    Args:
        model: transformers' model.
        inventory: The checkpoint's tensors.
        names: The linears to find.

    Returns:
        Name to place, and name to reason for those that cannot be found.
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inventory.tensors}
    places: dict[str, Place] = {}
    lost: dict[str, str] = {}
    for name in names:
        place: Place | None = None
        module = modules.get(module_of(name))
        if isinstance(module, nn.Linear):
            place = Place(module_of(name), name)
        elif ".experts." in name:
            place = _in_stack(modules, name)
        if place is None:
            lost[name] = "transformers' model has no linear of this name"
        elif tuple(place.of(parameters).shape) != shapes[name]:
            lost[name] = "transformers' model has it in another shape"
        else:
            places[name] = place
    return places, lost


def _in_stack(modules: Mapping[str, nn.Module], name: str) -> Place | None:
    """One expert's weight among those of its layer; the checkpoint may call the block another name than the model."""
    layer, _, rest = name.rpartition(".experts.")
    index, _, leaf = module_of(rest).partition(".")
    block = layer.rpartition(".")[0]
    found = [path for path in (f"{layer}.experts", f"{block}.mlp.experts") if is_stack(modules.get(path))]
    if not found or not index.isdigit():
        return None
    parameters: dict[str, torch.Tensor] = dict(modules[found[0]].named_parameters(recurse=False))
    half = parameters["gate_up_proj"].shape[1] // 2
    if leaf in _DOWN:
        return Place(found[0], f"{found[0]}.down_proj", int(index))
    if leaf in _GATE + _UP:
        rows = slice(0, half) if leaf in _GATE else slice(half, None)
        return Place(found[0], f"{found[0]}.gate_up_proj", int(index), rows)
    return None


def is_stack(module: nn.Module | None) -> bool:
    """Whether a module holds the experts of a layer in two stacks."""
    parameters = {} if module is None else dict(module.named_parameters(recurse=False))
    return all(name in parameters and parameters[name].dim() == 3 for name in STACKS)
