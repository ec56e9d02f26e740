"""Which devices a plan can run on: for which of its treatments vLLM has kernels there.

Other devices of vLLM's (XPU, TPU) were never tried with a plan, so none is said to run there.
"""

from collections.abc import Iterable, Sequence

DEVICES = ("cpu", "cuda", "rocm")
"""Devices that a plan may be for."""

Treated = Iterable[tuple[str, str]]
"""Names of a family of tensors and their treatment."""


def device_faults(tensors: Treated, device: str) -> list[tuple[str, str]]:
    """Why a plan cannot run on a device, each with what to do."""
    if device != "cpu":
        return []
    tensors, faults = list(tensors), []
    if float8 := sorted({treatment for _, treatment in tensors if treatment.startswith("fp8")}):
        reason = f"{', '.join(float8)} needs a GPU: vLLM's CPU build has no float8 matmul that finishes"
        faults.append((reason, "use int8, which vLLM runs on CPU, or a GPU of compute capability 8.9 or newer"))
    if any(treatment == "int8" and ".experts." in names for names, treatment in tensors):
        reason = "int8 experts need a GPU: vLLM's CPU build has no int8 kernel for them"
        faults.append((reason, "keep the experts in bf16 by a rule, or use a GPU"))
    return faults


def devices_of(plans: Sequence[Treated]) -> tuple[str, ...]:
    """Devices on which every one of these plans runs: one plan, or the members of a hybrid."""
    kept = [list(tensors) for tensors in plans]
    return tuple(device for device in DEVICES if not any(device_faults(tensors, device) for tensors in kept))
