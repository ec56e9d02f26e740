"""How far a policy has drifted since its plan was measured, from a few rows of every int8 linear.

Per update: the share of sampled codes that changed since the last one, the share of sampled weights beyond the range
of the profile's scales, and how far row scales moved from the profile's. Samples stay on the device until the update
is complete, and are looked at together.

Shape legend: S sampled rows of a linear, I input columns.

Source: the clip rate under the profile's scales separates a healthy run from one that needs a new profile; a healthy
one has 1.6 to 2.9 times its rate at profile time (2e-4), a drifted one 3.7 to 7.6 times (measured on SmolLM2-135M).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashrl_registry.runtime.log import logger

if TYPE_CHECKING:
    import torch

    from flashrl_registry.runtime.transform import Vectors

ROWS = 16
CLIP_FLOOR = 2e-4
CLIP_RATIO = 3.3


@dataclass(frozen=True)
class _Sample:
    """Of one int8 linear; the scales are whole, and may be the engine's own until the update is complete."""

    codes_SI: "torch.Tensor"
    scale_O1: "torch.Tensor"
    profile_O1: "torch.Tensor | None"
    frozen: bool

    @property
    def step(self) -> int:
        """Rows from one sampled row to the next."""
        return _step(self.scale_O1.shape[0])


class Telemetry:
    """Samples of one update, beside those of the last."""

    def __init__(self) -> None:
        self._before: dict[str, torch.Tensor] = {}
        self._samples: dict[str, _Sample] = {}
        self._baseline: float | None = None

    def begin(self) -> None:
        """Start a new update."""
        self._samples = {}

    def forget(self) -> None:
        """Samples of the last update are lost."""
        self._before = {}

    def observe(
        self, name: str, codes_OI: "torch.Tensor", scale_O1: "torch.Tensor", vectors: "Vectors", *, frozen: bool
    ) -> None:
        """Take a sample of one int8 linear; nothing waits for the device.

        Args:
            name: The weight.
            codes_OI: int8 codes.
            scale_O1: float32 scales; kept until the update ends.
            vectors: The profile's, on the same device; a linear without a scale there has no drift to report.
            frozen: The scales are the profile's own.
        """
        profile = vectors.by_key.get(f"weight_scale/{name}")
        codes_SI = codes_OI[:: _step(codes_OI.shape[0])].clone()
        self._samples[name] = _Sample(codes_SI, scale_O1, None if profile is None else profile.view(-1, 1), frozen)

    def finish(self) -> dict[str, float]:
        """The update is complete.

        Returns:
            ``codes_changed``, ``clip_rate`` and ``scale_drift`` (mean of |log2| of scale over the profile's), each
            only where it could be measured.
        """
        report = self._changed() | self._against_profile()
        self._before |= {name: sample.codes_SI for name, sample in self._samples.items()}
        self._samples = {}
        return report

    def _changed(self) -> dict[str, float]:
        import torch

        pairs = [
            (sample.codes_SI.view(-1), before.view(-1))
            for name, sample in self._samples.items()
            if (before := self._before.get(name)) is not None and before.shape == sample.codes_SI.shape
        ]
        if not pairs:
            return {}
        now, before = (torch.cat(side) for side in zip(*pairs, strict=True))
        return {"codes_changed": float((now != before).sum()) / now.numel()}

    def _against_profile(self) -> dict[str, float]:
        """One pass over all linears that the profile knows: sums of them, and one look at the device."""
        import torch

        known = [(sample, sample.profile_O1) for sample in self._samples.values() if sample.profile_O1 is not None]
        if not known:
            return {}
        known.sort(key=lambda pair: pair[0].frozen)
        device = known[0][0].codes_SI.device
        limits, widths = [], []
        for sample, profile_O1 in known:
            ratio_S1 = profile_O1[:: sample.step] / sample.scale_O1[:: sample.step]
            limits.append(torch.full_like(ratio_S1, 127.0) if sample.frozen else 127.5 * ratio_S1)
            widths.extend([sample.codes_SI.shape[1]] * ratio_S1.shape[0])
        codes = torch.cat([sample.codes_SI.view(-1) for sample, _ in known])
        # int16, for -128 has no magnitude in int8.
        limit_S = torch.cat(limits).view(-1).clamp_(max=1e4).floor_().to(torch.int16)
        beyond = codes.to(torch.int16).abs_() > limit_S.repeat_interleave(
            torch.tensor(widths, device=device), output_size=codes.numel()
        )
        # Recomputed codes tell how far beyond the profile's range a weight is. Frozen ones stop at its end, where the
        # largest weight of a row lies, too; only -128 is always beyond, and stands for as many on the other side.
        frozen = sum(sample.codes_SI.numel() for sample, _ in known if sample.frozen)
        num_beyond = beyond.sum() + beyond[codes.numel() - frozen :].sum()
        scales = torch.cat([sample.scale_O1.view(-1) for sample, _ in known])
        drift = (scales / torch.cat([profile_O1.reshape(-1) for _, profile_O1 in known])).log2().abs().sum()
        rate = float(num_beyond) / codes.numel()
        return {"clip_rate": rate, "scale_drift": float(drift) / scales.numel(), "saturated": self._saturated(rate)}

    def _saturated(self, rate: float) -> float:
        if self._baseline is None:
            self._baseline = max(rate, CLIP_FLOOR)
        saturated = rate > CLIP_RATIO * self._baseline
        if saturated:
            logger.warning(
                "%.2g of the weights are beyond the profile's range (%.2g when the engine started): profile again",
                rate, self._baseline,
            )  # fmt: skip
        return float(saturated)


def _step(rows: int) -> int:
    return max(1, rows // ROWS)
