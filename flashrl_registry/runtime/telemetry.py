"""How far a policy has drifted since its plan was measured, from a few rows of every int8 linear.

Per update: the share of sampled codes that changed since the last one, the share of sampled weights beyond the range
of the profile's scales, and how far row scales moved from the profile's. All sums stay on the device until the update
is complete, so an update waits for one transfer, not one per tensor.

Shape legend: S sampled rows of a linear, I input columns.

Source: the clip rate under the profile's scales separates a healthy run from one that needs a new profile; a healthy
one has 1.6 to 2.9 times its rate at profile time (2e-4), a drifted one 3.7 to 7.6 times (measured on SmolLM2-135M).
"""

from typing import TYPE_CHECKING, Any

from flashrl_registry.runtime.log import logger

if TYPE_CHECKING:
    import torch

    from flashrl_registry.runtime.transform import Vectors

ROWS = 16
CLIP_FLOOR = 2e-4
CLIP_RATIO = 3.3


class Telemetry:
    """Sums of one update, beside the sample of the last."""

    def __init__(self) -> None:
        self._codes: dict[str, torch.Tensor] = {}
        self._sums: dict[str, Any] = {}
        self._baseline: float | None = None
        self.begin()

    def begin(self) -> None:
        """Start a new update."""
        self._sums = {"sampled": 0, "compared": 0, "changed": 0, "ranged": 0, "beyond": 0, "rows": 0, "drift": 0.0}

    def forget(self) -> None:
        """Samples of the last update are lost."""
        self._codes = {}

    def observe(
        self, name: str, codes_OI: "torch.Tensor", scale_O1: "torch.Tensor", vectors: "Vectors", *, frozen: bool
    ) -> None:
        """Take a sample of one int8 linear.

        Args:
            name: The weight.
            codes_OI: int8 codes.
            scale_O1: float32 scales.
            vectors: The profile's, on the same device; a linear without a scale there has no drift to report.
            frozen: The scales are the profile's own.
        """
        step = max(1, codes_OI.shape[0] // ROWS)
        codes_SI, scale_S1 = codes_OI[::step], scale_O1[::step]
        sums = self._sums
        sums["sampled"] += codes_SI.numel()
        if (before := self._codes.get(name)) is not None and before.shape == codes_SI.shape:
            sums["compared"] += codes_SI.numel()
            sums["changed"] = sums["changed"] + (codes_SI != before).sum()
        self._codes[name] = codes_SI.clone()
        profile = vectors.by_key.get(f"weight_scale/{name}")
        if profile is None:
            return
        profile_S1 = profile.view(-1, 1)[::step]
        sums["ranged"] += codes_SI.numel()
        magnitude_SI = codes_SI.float().abs_()
        # Frozen codes stop at the end of the range; recomputed ones tell how far beyond it the weight is.
        beyond_SI = magnitude_SI >= 127 if frozen else magnitude_SI * scale_S1 > 127.5 * profile_S1
        sums["beyond"] = sums["beyond"] + beyond_SI.sum()
        sums["rows"] += scale_S1.numel()
        sums["drift"] = sums["drift"] + (scale_S1 / profile_S1).log2().abs().sum()

    def finish(self) -> dict[str, float]:
        """The update is complete.

        Returns:
            ``codes_changed``, ``clip_rate`` and ``scale_drift`` (mean of |log2| of scale over the profile's), each
            only where it could be measured.
        """
        sums = {key: float(value) for key, value in self._sums.items()}
        report = {}
        if sums["compared"]:
            report["codes_changed"] = sums["changed"] / sums["compared"]
        if sums["ranged"]:
            rate = sums["beyond"] / sums["ranged"]
            report["clip_rate"] = rate
            report["scale_drift"] = sums["drift"] / sums["rows"]
            if self._baseline is None:
                self._baseline = max(rate, CLIP_FLOOR)
            report["saturated"] = float(rate > CLIP_RATIO * self._baseline)
            if report["saturated"]:
                logger.warning(
                    "%.2g of the weights are beyond the profile's range (%.2g when the engine started): profile again",
                    rate, self._baseline,
                )  # fmt: skip
        return report
