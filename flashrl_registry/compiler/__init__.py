"""Compiler: rules and names to a plan, a plan and an environment to per-tensor operations. Pure functions.

Each name is loaded when it is first used: an engine that lowers a published plan compiles none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashrl_registry.compiler.auto import Auto, Budget, auto_plan, parse_budget
    from flashrl_registry.compiler.compile import Compiled, compile_plan
    from flashrl_registry.compiler.diff import PlanDiff, SettingChange, TensorChange, diff_plans
    from flashrl_registry.compiler.explaining import Explanation, explain
    from flashrl_registry.compiler.lowering import lower
    from flashrl_registry.compiler.memory import checkpoint_bytes, tensor_bytes, weight_bytes
    from flashrl_registry.compiler.presets import PRESETS, preset_rules
    from flashrl_registry.compiler.summary import diagnostic_lines

_HOME = {
    "PRESETS": "presets",
    "Auto": "auto",
    "Budget": "auto",
    "Compiled": "compile",
    "Explanation": "explaining",
    "PlanDiff": "diff",
    "SettingChange": "diff",
    "TensorChange": "diff",
    "auto_plan": "auto",
    "checkpoint_bytes": "memory",
    "compile_plan": "compile",
    "diagnostic_lines": "summary",
    "diff_plans": "diff",
    "explain": "explaining",
    "lower": "lowering",
    "parse_budget": "auto",
    "preset_rules": "presets",
    "tensor_bytes": "memory",
    "weight_bytes": "memory",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
