"""Checkpoints on disk, read by their headers only: no torch, no weights."""

from flashrl_registry.checkpoints.headers import CheckpointIndex, TensorLocation, read_checkpoint

__all__ = ["CheckpointIndex", "TensorLocation", "read_checkpoint"]
