"""Is every element of a tensor a finite number?"""

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> Tensor:
    """Whether no element is NaN or infinite.

    One pass without temporaries: minimum and maximum are NaN where any element is, and infinite where one is.

    Args:
        tensor: Any floating-point or integer dtype; float8 is looked at in float32. Not modified.

    Returns:
        bool, one element, on the tensor's device; true for a tensor without elements.
    """
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return torch.isfinite(torch.stack(torch.aminmax(tensor))).all()
