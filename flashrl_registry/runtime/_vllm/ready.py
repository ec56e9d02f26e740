"""The first load from a checkpoint that is quantized in the plan's own format: its tensors go in as they are."""

from collections.abc import Callable, Iterator, Mapping

import torch

from flashrl_registry.runtime._vllm.sent import Sent
from flashrl_registry.runtime._vllm.update import NamedTensors, Update, refused
from flashrl_registry.runtime.start_model import ReadyMade

_SCALE = "_scale"


def passed_through(
    weights: NamedTensors,
    expected: Mapping[str, ReadyMade],
    update: Update,
    sent: Sent,
    *,
    is_tied_copy: Callable[[str], bool],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Check every tensor as it is read, and hand it on.

    Args:
        weights: The checkpoint's.
        expected: What each must be.
        update: The first load; its missing names are taken off as they arrive.
        sent: Takes the fingerprints that ``verify`` compares with what is resident.
        is_tied_copy: A head that a tied model has no place for.

    Raises:
        WeightMismatchError: A tensor is not the one that the plan's format has.
    """
    device = torch.get_default_device()
    for name, value in weights:
        if is_tied_copy(name):
            continue
        ready = expected.get(name)
        if ready is None:
            raise refused(name, "the plan's format has no such tensor")
        if name not in update.missing:
            raise refused(name, "is in the checkpoint twice")
        if (reason := ready.fault(tuple(value.shape), str(value.dtype).removeprefix("torch."))) is not None:
            raise refused(name, reason)
        update.missing.discard(name)
        update.num_bytes += value.nbytes
        tensor = value.to(device, non_blocking=True)
        if name.endswith(_SCALE):
            # Engines keep scales in float32; bf16 ones are exact in it.
            tensor = tensor.float().reshape(ready.shapes[0])
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise refused(name, "holds NaN or infinity")
        sent.take(name, tensor)
        yield name, tensor
