"""Compiler: rules and names to a plan, a plan and an environment to per-tensor operations. Pure functions."""

from flashrl_registry.compiler.auto import Auto, Budget, auto_plan, parse_budget
from flashrl_registry.compiler.compile import Compiled, compile_plan
from flashrl_registry.compiler.diff import PlanDiff, SettingChange, TensorChange, diff_plans
from flashrl_registry.compiler.explain import Explanation, explain
from flashrl_registry.compiler.lower import lower
from flashrl_registry.compiler.memory import checkpoint_bytes, tensor_bytes, weight_bytes
from flashrl_registry.compiler.presets import PRESETS, preset_rules
from flashrl_registry.compiler.summary import diagnostic_lines

__all__ = [
    "PRESETS",
    "Auto",
    "Budget",
    "Compiled",
    "Explanation",
    "PlanDiff",
    "SettingChange",
    "TensorChange",
    "auto_plan",
    "checkpoint_bytes",
    "compile_plan",
    "diagnostic_lines",
    "diff_plans",
    "explain",
    "lower",
    "parse_budget",
    "preset_rules",
    "tensor_bytes",
    "weight_bytes",
]
