"""An update that writes codes and scales straight to where the engine reads them.

Nothing is loaded, processed or copied back, no new tensor of a weight's size is made, and nothing waits for the device
until the update is complete: whether every weight is a finite number is told by flags that the kernels clear. Storages
stay, so captured CUDA graphs stay valid. Until then the layers that have arrived hold new weights and the others old
ones, exactly as in an update that goes through vLLM; the engine is quarantined meanwhile.
"""

from collections.abc import Mapping
from typing import Any

import torch

from flashrl_registry.documents import QuantizeFp8, QuantizeInt8, Rescale, ResolvedPlan, ResolvedTensor
from flashrl_registry.ops import kernels_run, quantize_fp8, quantize_int8, rescale_rows
from flashrl_registry.runtime._vllm.places import Place
from flashrl_registry.runtime._vllm.sent import SCALE, Sent
from flashrl_registry.runtime._vllm.update import refused_as_not_finite
from flashrl_registry.runtime.fingerprint import fingerprint, fingerprint_and_check
from flashrl_registry.runtime.telemetry import Telemetry
from flashrl_registry.runtime.transform import Vectors

_FLAG_BYTES = 16
"""Kernels are compiled for aligned addresses and for others."""


class InPlace:
    """Writes one update after another.

    Args:
        places: Of every tensor.
        sent: Takes note of what was written.
        telemetry: Observes int8 codes.
    """

    def __init__(self, places: Mapping[str, Place], sent: Sent, telemetry: Telemetry) -> None:
        self._places = places
        self._sent = sent
        self._telemetry = telemetry
        self._device = next(iter(places.values())).value.device
        self._flags: torch.Tensor | None = None
        self._written: list[ResolvedTensor] = []

    def holds(self) -> bool:
        """The engine's parameters are where they were."""
        return all(place.holds() for place in self._places.values())

    def begin(self) -> None:
        """A new update."""
        self._flags = torch.ones(len(self._places), _FLAG_BYTES, dtype=torch.bool, device=self._device)
        self._written = []

    def write(self, tensor: ResolvedTensor, value: torch.Tensor, vectors: Vectors) -> None:
        """Write one tensor.

        Args:
            tensor: Its entry in the plan.
            value: As it was sent, on the engine's device, of the plan's shape. Not modified.
            vectors: The profile's, on the engine's device.
        """
        assert self._flags is not None
        place, op = self._places[tensor.name], tensor.op
        finite = self._flags[len(self._written), :1]
        self._written.append(tensor)
        if isinstance(op, QuantizeInt8 | QuantizeFp8):
            assert place.scale is not None
            in_shape = place.scale.is_contiguous()
            out = (place.value, place.scale if in_shape else torch.empty_like(place.scale).contiguous())
            if isinstance(op, QuantizeInt8):
                frozen = vectors.by_key[f"weight_scale/{tensor.name}"] if op.scales == "frozen" else None
                rows, columns = vectors.inv_smoothing(op.rows), vectors.columns(op.columns)
                quantize_int8(value, frozen, inv_rows_O=rows, columns_I=columns, finite=finite, out=out)
            else:
                quantize_fp8(op.strategy, value, finite=finite, out=out)
            if not in_shape:
                place.scale.copy_(out[1])
            self._sent.note(tensor.name, fingerprint(place.value, chunks=self._sent.chunks(place.value)))
            return
        if isinstance(op, Rescale):
            factor = vectors.inv_smoothing(op.rows)
            assert factor is not None
            value = rescale_rows(value, factor, place.value.dtype)
        place.value.copy_(value)
        rows_RC, _ = fingerprint_and_check(place.value, chunks=self._sent.chunks(place.value), finite=finite)
        self._sent.note(tensor.name, rows_RC)

    def settle(self, vectors: Vectors) -> None:
        """The last tensor has arrived: wait for the device, and look at the flags.

        Raises:
            WeightMismatchError: A weight is not finite.
        """
        assert self._flags is not None
        torch.cuda.synchronize(self._device)  # a sender may have used streams of its own
        finite = self._flags[: len(self._written), 0].tolist()
        for tensor, whole in zip(self._written, finite, strict=True):
            if not whole:
                raise refused_as_not_finite(tensor.name)
        self._note_scales()
        for tensor in self._written:
            if isinstance(tensor.op, QuantizeInt8):
                place = self._places[tensor.name]
                assert place.scale is not None
                frozen = tensor.op.scales == "frozen"
                self._telemetry.observe(tensor.name, place.value, place.scale, vectors, frozen=frozen)
        self._flags, self._written = None, []

    def _note_scales(self) -> None:
        """Fingerprints of all scales: of those with one number in a row, together."""
        names, columns = [], []
        for tensor in self._written:
            scale = self._places[tensor.name].scale
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


def may_write_in_place(resolved: ResolvedPlan, vllm_config: Any, device: torch.device) -> bool:
    """Whether places are worth looking for: one worker on a GPU holds whole tensors, and none waits for another."""
    alone = vllm_config.parallel_config.world_size == 1
    waits = any(isinstance(tensor.op, Rescale) and tensor.op.dead_inputs_of for tensor in resolved.tensors)
    return kernels_run(device) and alone and not waits and resolved.update_mode != "staged"
