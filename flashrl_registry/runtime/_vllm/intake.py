"""One sent tensor: is it the plan's, and what does the engine get in its place?"""

from collections.abc import Iterator, Mapping

import torch

from flashrl_registry.documents import QuantizeInt8, ResolvedPlan, ResolvedTensor
from flashrl_registry.ops import all_finite
from flashrl_registry.runtime._vllm.in_place import InPlace
from flashrl_registry.runtime._vllm.sent import Sent
from flashrl_registry.runtime._vllm.update import Update, check_finite, refused
from flashrl_registry.runtime.arrivals import unusable
from flashrl_registry.runtime.fingerprint import forget_factors
from flashrl_registry.runtime.telemetry import Telemetry
from flashrl_registry.runtime.transform import Vectors, fault, transform


class Intake:
    """Checks, transforms and takes note of tensors.

    Args:
        resolved: The plan.
        tensors: Those of its tensors that have a place in the engine, by name.
        vectors: The profile's vectors, on CPU; moved to the model's device on first use.
        device: The model's.
    """

    def __init__(
        self,
        resolved: ResolvedPlan,
        tensors: Mapping[str, ResolvedTensor],
        vectors: Vectors,
        device: torch.device,
    ) -> None:
        self.sent = Sent(resolved.environment.tensor_parallel_size)
        self.telemetry = Telemetry()
        self.device = device
        self._tensors = tensors
        self._vectors = {"cpu": vectors}

    def begin(self) -> None:
        """A new update."""
        self.telemetry.begin()
        self.sent.begin()

    def forget(self) -> None:
        """What lies on the device is lost, or was overwritten: sleep level 2 discards all that a first load made."""
        self._vectors = {"cpu": self._vectors["cpu"]}
        self.telemetry.forget()
        forget_factors()

    def take(self, update: Update, name: str, value: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """Take one tensor of an update.

        Args:
            update: Where it belongs; takes note that it has arrived.
            name: The checkpoint's name.
            value: As it was sent. Not modified.

        Returns:
            What goes to the engine; ``value`` itself where it passes through and is on the engine's device already.

        Raises:
            WeightMismatchError: Unknown, no dense tensor, sent twice, of another shape or dtype, or not finite.
        """
        tensor = self._expected(update, name, value)
        return list(self._outputs(update, tensor, self._here(value)))

    def write(self, update: Update, name: str, value: torch.Tensor, target: InPlace) -> None:
        """The same, where the engine's own memory gets it at once; whether it is finite is told at the end."""
        tensor = self._expected(update, name, value)
        target.write(tensor, self._here(value), self.vectors)

    @property
    def vectors(self) -> Vectors:
        """The profile's, on the model's device."""
        return self._vectors_on(self.device)

    def _here(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor on the model's device. What was on another has been read when this returns, to be used again."""
        return value.to(self.device)

    def _expected(self, update: Update, name: str, value: torch.Tensor) -> ResolvedTensor:
        reason = unusable(name, value)
        tensor = self._tensors.get(name)
        if tensor is None:
            raise refused(str(name), reason or "the plan does not decide this tensor")
        if name not in update.missing:
            raise refused(name, "sent twice in one update")
        update.last = name
        if (reason := reason or fault(tensor, value)) is not None:
            raise refused(name, reason)
        update.missing.discard(name)
        update.num_bytes += value.nbytes
        return tensor

    def _outputs(
        self, update: Update, tensor: ResolvedTensor, value: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor]]:
        name, op = tensor.name, tensor.op
        vectors = self.vectors
        outputs = list(transform(tensor, value, vectors))
        frozen = isinstance(op, QuantizeInt8) and op.scales == "frozen"
        if frozen:
            check_finite(name, all_finite(value))  # frozen scales say nothing of the weights
        if isinstance(op, QuantizeInt8):
            (_, codes), (_, scale) = outputs
            update.pruning.see(name, codes)
            self.telemetry.observe(name, codes, scale, vectors, frozen=frozen)
        if update.pruning.concerns_norm(name):
            check_finite(name, all_finite(outputs[0][1]))
            update.pruning.hold(name, outputs[0][1])
            outputs = []
        # Of a weight that became codes, the scale tells: it comes last, and is not finite where any weight is not.
        # Looking waits for the device, so a buffer has been read when the sender gets it back.
        finite = [self.sent.take(*output) for output in outputs]
        if finite:
            check_finite(name, finite[-1])
        yield from outputs
        for output in update.pruning.ready():
            self.sent.take(*output)
            yield output

    def _vectors_on(self, device: torch.device) -> Vectors:
        key = str(device)
        if key not in self._vectors:
            self._vectors[key] = Vectors({k: v.to(device) for k, v in self._vectors["cpu"].by_key.items()})
        return self._vectors[key]
