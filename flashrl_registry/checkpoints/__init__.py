"""Checkpoints, on disk or on the Hub, read by their headers only: no torch, no weights."""

from flashrl_registry.checkpoints.headers import CheckpointIndex, TensorLocation, read_checkpoint
from flashrl_registry.checkpoints.remote import RemoteCheckpoint, read_inventory, read_remote_checkpoint

__all__ = [
    "CheckpointIndex",
    "RemoteCheckpoint",
    "TensorLocation",
    "read_checkpoint",
    "read_inventory",
    "read_remote_checkpoint",
]
