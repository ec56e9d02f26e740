"""A Ray job whose ``runtime_env`` names the plan: Ray places one engine on each GPU, or two that share a CPU."""

import os
from typing import Any

import ray
import torch
from ray_job import ENVIRONMENT, Rollout

Result = dict[str, Any]
PASSED_ON = (*ENVIRONMENT, "VLLM_CACHE_ROOT", "NCCL_NVLS_ENABLE", "HF_HUB_OFFLINE", "VLLM_USE_FLASHINFER_SAMPLER")


def placed(args: Result) -> Result:
    """Both engines at the start, after an update, and where they ran."""
    gpus = torch.cuda.device_count()
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= {"FLASHRL_CONFIG": os.environ["FLASHRL_CONFIG"], "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    ray.init(
        num_cpus=2, num_gpus=gpus, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
        runtime_env={"env_vars": variables},
    )  # fmt: skip
    try:
        actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(Placed)
        engines = [actor.remote(args["start"]) for _ in range(2)]
        result: Result = {"gpus": ray.get([engine.gpus.remote() for engine in engines])}
        result["start"] = ray.get([engine.observe.remote() for engine in engines])
        ray.get([engine.update.remote(args["updated"]) for engine in engines])
        result["updated"] = ray.get([engine.observe.remote() for engine in engines])
        return result
    finally:
        ray.shutdown()


class Placed(Rollout):
    """One engine, which says where it is."""

    def gpus(self) -> str:
        """As Ray gave them."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")
