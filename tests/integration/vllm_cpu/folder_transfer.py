"""A weight-transfer engine for machines without NCCL: the trainer's side is a checkpoint folder.

vLLM drives it through the same start / update / finish as its own: layerwise reload around chunks that go through
``model.load_weights``. Each chunk is received into one buffer that the next one overwrites.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class FolderInit(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class FolderChunk(WeightTransferUpdateInfo):
    """One tensor of a checkpoint."""

    folder: str
    name: str


class FolderTransferEngine(WeightTransferEngine):
    """Receives one tensor per chunk."""

    init_info_cls = FolderInit
    update_info_cls = FolderChunk

    def init_transfer_engine(self, init_info: FolderInit) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """As vLLM's NCCL engine."""
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """As vLLM's NCCL engine."""
        finalize_layerwise_reload(self.model, self.vllm_config.model_config)

    def receive_weights(self, update_info: FolderChunk, *_: object) -> None:
        """Load one tensor from a buffer that is overwritten at once."""
        for file in sorted(Path(update_info.folder).glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                if update_info.name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                    buffer = opened.get_tensor(update_info.name)
                    self.model.load_weights([(update_info.name, buffer)])
                    buffer.fill_(torch.nan)

    def shutdown(self) -> None:
        """Nothing to close."""

    def trainer_send_weights(self, *_: object) -> None:
        """The trainer's side is a folder."""
        raise NotImplementedError


def register() -> None:
    """Make the backend ``folder`` known in this process, once."""
    if "folder" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("folder", FolderTransferEngine)
