"""Profiling: a checkpoint pair in, a Profile and its vectors out; tensor by tensor, without a model."""

from flashrl_registry.profiling.output import document_path
from flashrl_registry.profiling.profile import Progress, profile_pair

__all__ = ["Progress", "document_path", "profile_pair"]
