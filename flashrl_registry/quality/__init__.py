"""What a plan does to a model's output, measured with transformers: no engine, and no trainer.

Weights are quantized by the runtime's own operations, inputs by the same maths, and everything is multiplied in
float32: an engine's kernels differ from this in the order of their sums only.
"""

from flashrl_registry.quality.divergence import Divergence
from flashrl_registry.quality.measure import Quality, evidence_of, measure_plan, with_measured
from flashrl_registry.quality.sensitivity import measure_sensitivity

__all__ = ["Divergence", "Quality", "evidence_of", "measure_plan", "measure_sensitivity", "with_measured"]
