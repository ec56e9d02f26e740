"""Profiling: a checkpoint pair in, a Profile and its vectors out; tensor by tensor, without a model."""

from flashrl_registry.profiling.output import document_path
from flashrl_registry.profiling.profile import Progress, profile_pair
from flashrl_registry.profiling.verify import Verified, verify_profile

__all__ = ["Progress", "Verified", "document_path", "profile_pair", "verify_profile"]
