"""A trainer that sends its weights by vLLM's NCCL weight transfer, from a GPU and a process of its own.

The engine's side holds a :class:`Trainer`; the process obeys one JSON object per line:

    {"folder": FOLDER}                       hold the tensors of a checkpoint on the GPU
    {"shapes": {NAME: SHAPE, ...}}           hold random ones, in bfloat16
    {"send": true, "packed": true, ...}      broadcast what is held; the rest are vLLM's arguments

It answers each with a line that begins with ``TRAINER``; whatever else is printed is not for us.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "TRAINER "


class Trainer:
    """The process, its group with an engine's workers, and what it holds."""

    def __init__(self, gpu: str, workers: int) -> None:
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        environ.pop("FLASHRL_CONFIG", None)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.group = {"master_address": "127.0.0.1", "master_port": port, "world_size": workers + 1}
        command = [sys.executable, __file__, json.dumps(self.group)]
        self.process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.held: list[tuple[str, list[int]]] = []

    def join(self, llm: Any) -> None:
        """Open the group; both sides wait for each other."""
        llm.init_weight_transfer_engine({"init_info": {**self.group, "rank_offset": 1}})
        self.answer()

    def hold(self, **what: Any) -> None:
        """Have tensors made or read, before any clock runs."""
        self.held = self.ask(what)["tensors"]

    def transfer(self, llm: Any, *, packed: bool, buffer_bytes: int | None = None) -> float:
        """One whole update of the engine; its seconds.

        Args:
            llm: A ``vllm.LLM``.
            packed: Several tensors in one broadcast; vLLM loads those of the next one on another CUDA stream.
            buffer_bytes: About as many in one broadcast, instead of vLLM's default.
        """
        names, shapes = zip(*self.held, strict=True)
        how: dict[str, Any] = {"packed": packed}
        if buffer_bytes is not None:
            how["packed_buffer_size_bytes"] = buffer_bytes
        info = {"names": list(names), "shapes": list(shapes), "dtype_names": ["bfloat16"] * len(names), **how}
        began = time.perf_counter()
        llm.start_weight_update()
        self.tell({"send": True, **how})
        llm.update_weights({"update_info": info})
        llm.finish_weight_update()
        seconds = time.perf_counter() - began
        self.answer()
        return seconds

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        self.tell(what)
        return self.answer()

    def tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise ConnectionError(f"the trainer ended with exit code {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@contextlib.contextmanager
def trainer(gpu: str, llm: Any, workers: int) -> Iterator[Trainer]:
    """A trainer that shares a group with an engine's workers."""
    made = Trainer(gpu, workers)
    try:
        made.join(llm)
        yield made
        made.close()
    finally:
        made.process.kill()


def main() -> None:
    import torch
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerSendWeightsArgs, NCCLWeightTransferEngine

    torch.cuda.set_device(0)
    group = NCCLWeightTransferEngine.trainer_init(json.loads(sys.argv[1]))
    say({"device": torch.cuda.get_device_name()})
    tensors: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.pop("send", False):
            began = time.perf_counter()
            arguments = NCCLTrainerSendWeightsArgs(group=group, **asked)
            NCCLWeightTransferEngine.trainer_send_weights(iter(tensors.items()), arguments)
            torch.cuda.synchronize()
            say({"sent": time.perf_counter() - began})
        else:
            tensors.clear()
            tensors.update(read(asked["folder"]) if "folder" in asked else random(asked["shapes"]))
            torch.cuda.synchronize()
            say({"tensors": [[name, list(tensor.shape)] for name, tensor in tensors.items()]})


def say(what: dict[str, Any]) -> None:
    print(MARK + json.dumps(what), flush=True)


def read(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    merged: dict[str, Any] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        merged.update(load_file(file, device="cuda"))
    return merged


def random(shapes: dict[str, list[int]]) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    return {
        name: torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, 0.02) for name, shape in shapes.items()
    }


if __name__ == "__main__":
    main()
