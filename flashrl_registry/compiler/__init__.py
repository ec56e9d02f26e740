"""Compiler: rules and names to a plan, a plan and an environment to per-tensor operations. Pure functions."""

from flashrl_registry.compiler.compile import Compiled, compile_plan
from flashrl_registry.compiler.lower import lower
from flashrl_registry.compiler.presets import PRESETS, preset_rules

__all__ = ["PRESETS", "Compiled", "compile_plan", "lower", "preset_rules"]
