"""Checkpoints, on disk or on the Hub: their headers, and the bytes of their tensors; no torch."""

from flashrl_registry.checkpoints.headers import CheckpointIndex, TensorLocation, read_checkpoint
from flashrl_registry.checkpoints.ranges import HubFiles, read_remote_index
from flashrl_registry.checkpoints.remote import RemoteCheckpoint, hub_id, read_inventory, read_remote_checkpoint

__all__ = [
    "CheckpointIndex",
    "HubFiles",
    "RemoteCheckpoint",
    "TensorLocation",
    "hub_id",
    "read_checkpoint",
    "read_inventory",
    "read_remote_checkpoint",
    "read_remote_index",
]
