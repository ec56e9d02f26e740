"""An update that writes codes and scales straight to where the engine reads them.

Nothing is loaded, processed or copied back, no new tensor of a weight's size is made, and nothing waits for the device
until the update is complete: whether every weight is a finite number is told by flags that the kernels clear. Storages
stay, so captured CUDA graphs stay valid. Until then the layers that have arrived hold new weights and the others old
ones, exactly as in an update that goes through vLLM; the engine is quarantined meanwhile.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from flashrl_registry.documents import QuantizeFp8, QuantizeInt8, Rescale, ResolvedTensor
from flashrl_registry.ops import quantize_fp8, quantize_int8, rescale_rows
from flashrl_registry.ops.triton_launch import Recording, not_launches_alone
from flashrl_registry.runtime._vllm.places import Place
from flashrl_registry.runtime._vllm.sent import SCALE, Sent
from flashrl_registry.runtime._vllm.update import refused_as_not_finite
from flashrl_registry.runtime.fingerprint import fingerprint
from flashrl_registry.runtime.telemetry import Telemetry
from flashrl_registry.runtime.transform import Vectors

_FLAG_BYTES = 16
"""Kernels are compiled for aligned addresses and for others."""


class Target:
    """One place, and the launches that write it and fingerprint it: found once, then made again at every update.

    Args:
        name: The tensor's.
        place: Where it goes.
        chunks: Slices of its columns that fingerprints tell apart.
        finite: The flag that is cleared where it is not finite.
    """

    def __init__(self, name: str, place: Place, chunks: int, finite: torch.Tensor) -> None:
        self.place = place
        self._name, self._chunks, self._finite = name, chunks, finite
        self._rows_RI = place.value.flatten(1) if place.value.dim() > 1 else place.value.unsqueeze(1)
        self._quantize: Recording | None = None
        self._kind: tuple[Any, ...] = ()
        self._frozen: torch.Tensor | None = None
        self._fingerprint: Recording | None = None

    def quantize(self, op: QuantizeInt8 | QuantizeFp8, value: torch.Tensor, vectors: Vectors) -> None:
        """Write codes and scales."""
        kind = (value.dtype, value.stride(), value.data_ptr() % 16, id(vectors))
        if self._quantize is None or kind != self._kind:
            recording = Recording(partial(self._run, op, value, vectors), value)
            self._quantize, self._kind = (recording if recording.complete else None), kind
            return
        self._quantize.again(value)
        if self._frozen is not None and self.place.scale is not None:
            self.place.scale.copy_(self._frozen)

    def _run(self, op: QuantizeInt8 | QuantizeFp8, value: torch.Tensor, vectors: Vectors) -> None:
        scale = self.place.scale
        assert scale is not None
        in_shape = scale.is_contiguous()
        out = (self.place.value, scale if in_shape else torch.empty(scale.shape, device=scale.device))
        if isinstance(op, QuantizeInt8):
            if op.scales == "frozen":
                self._frozen = vectors.by_key[f"weight_scale/{self._name}"].view(scale.shape)
            rows, columns = vectors.inv_smoothing(op.rows), vectors.columns(op.columns)
            quantize_int8(value, self._frozen, inv_rows_O=rows, columns_I=columns, finite=self._finite, out=out)
        else:
            quantize_fp8(op.strategy, value, finite=self._finite, out=out)
        if not in_shape:
            scale.copy_(out[1])
            not_launches_alone()

    def fingerprint(self) -> torch.Tensor:
        """Of what has been written, int64, (O, C); clears the flag where that is not finite."""
        from flashrl_registry.ops.triton_ops import row_fingerprints  # Triton is not everywhere

        rows_RI = self._rows_RI
        sums_RCH = torch.empty(rows_RI.shape[0], self._chunks, 2, dtype=torch.int32, device=rows_RI.device)
        if self._fingerprint is not None:
            self._fingerprint.again(sums_RCH)
        else:
            run = partial(row_fingerprints, rows_RI, self._chunks, 0, finite=self._finite, out=sums_RCH)
            recording = Recording(run, sums_RCH)
            self._fingerprint = recording if recording.complete else None
        return sums_RCH.view(torch.int64).squeeze(2)


class InPlace:
    """Writes one update after another.

    Args:
        places: Of every tensor.
        sent: Takes note of what was written.
        telemetry: Observes int8 codes.
    """

    def __init__(self, places: Mapping[str, Place], sent: Sent, telemetry: Telemetry) -> None:
        self._sent = sent
        self._telemetry = telemetry
        self._owners = dict.fromkeys(owner for place in places.values() for owner in place.owners)
        self._device = next(iter(places.values())).value.device
        self._flags = torch.ones(len(places), _FLAG_BYTES, dtype=torch.bool, device=self._device)
        self._targets = {
            name: Target(name, place, sent.chunks(place.value), self._flags[index, :1])
            for index, (name, place) in enumerate(places.items())
        }
        self._written: list[ResolvedTensor] = []

    def holds(self) -> bool:
        """The engine's parameters are where they were."""
        return all(getattr(layer, leaf).data_ptr() == address for layer, leaf, address in self._owners)

    def begin(self) -> None:
        """A new update."""
        torch.cuda.synchronize(self._device)  # forwards that are under way end with the weights that they began with
        self._flags.fill_(True)
        self._written = []

    def write(self, tensor: ResolvedTensor, value: torch.Tensor, vectors: Vectors) -> None:
        """Write one tensor.

        Args:
            tensor: Its entry in the plan.
            value: As it was sent, on the engine's device, of the plan's shape. Not modified.
            vectors: The profile's, on the engine's device.
        """
        target = self._targets[tensor.name]
        self._written.append(tensor)
        if isinstance(tensor.op, QuantizeInt8 | QuantizeFp8):
            target.quantize(tensor.op, value, vectors)
        else:
            if isinstance(tensor.op, Rescale):
                factor = vectors.inv_smoothing(tensor.op.rows)
                assert factor is not None
                value = rescale_rows(value, factor, target.place.value.dtype)
            target.place.value.copy_(value)
        self._sent.note(tensor.name, target.fingerprint())

    def settle(self, vectors: Vectors) -> None:
        """The last tensor has arrived: wait for the device, and look at the flags.

        Raises:
            WeightMismatchError: A weight is not finite.
        """
        torch.cuda.synchronize(self._device)  # a sender may have used streams of its own
        for name, finite in zip(self._targets, self._flags[:, 0].tolist(), strict=True):
            if not finite:
                raise refused_as_not_finite(name)
        self._note_scales()
        for tensor in self._written:
            if isinstance(tensor.op, QuantizeInt8):
                place = self._targets[tensor.name].place
                assert place.scale is not None
                frozen = tensor.op.scales == "frozen"
                self._telemetry.observe(tensor.name, place.value, place.scale, vectors, frozen=frozen)
        self._written = []

    def _note_scales(self) -> None:
        """Fingerprints of all scales: of those with one number in a row, together."""
        names, columns = [], []
        for tensor in self._written:
            scale = self._targets[tensor.name].place.scale
            if scale is None:
                continue
            if scale.dim() == 2 and scale.shape[1] > 1:
                chunks = self._sent.chunks(scale)
                self._sent.note(tensor.name + SCALE, fingerprint(scale.contiguous(), chunks=chunks))
            else:
                names.append(tensor.name + SCALE)
                columns.append(scale.reshape(-1))
        if columns:
            rows_RC = fingerprint(torch.cat(columns).view(-1, 1))
            for name, rows in zip(names, rows_RC.split([column.numel() for column in columns]), strict=True):
                self._sent.note(name, rows)
