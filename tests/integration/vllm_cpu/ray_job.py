"""A job on a Ray cluster of two nodes: one engine per node, each in an actor of its own."""

import os
import shutil
from typing import Any

import ray
from ray.cluster_utils import Cluster

import flashrl_registry

Result = dict[str, Any]
ENVIRONMENT = ("OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL", "FLASHRL_REGISTRY", "PYTHONPATH")


class Rollout:
    """One engine; nothing in here knows of plans."""

    def __init__(self, model: str) -> None:
        import scenarios

        self.llm = scenarios.engine(model, num_gpu_blocks_override=64)

    def observe(self) -> Result:
        """Tokens, status and the node that it runs on."""
        import scenarios

        return {**scenarios.observe(self.llm), "node": ray.get_runtime_context().get_node_id()}

    def update(self, folder: str) -> None:
        """New weights."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})


def start(model: str, node: str, config: str, **environment: str) -> Any:
    """An engine on one node, under a plan that only its environment names."""
    variables = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    variables |= {"FLASHRL_CONFIG": config, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **environment}
    actor = ray.remote(num_cpus=1, resources={node: 1}, runtime_env={"env_vars": variables})(Rollout)
    return actor.remote(model)


def two_nodes(args: Result) -> Result:
    """The driver pins the plan; each node runs it; then the folder changes before a third engine starts."""
    cluster = Cluster()
    for node in ("first", "second"):
        cluster.add_node(num_cpus=1, resources={node: 2}, include_dashboard=False, object_store_memory=100 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        pinned = flashrl_registry.pin(args["plan"])
        engines = [start(args["model"], node, pinned) for node in ("first", "second")]
        result: Result = {"pinned": pinned, "start": ray.get([engine.observe.remote() for engine in engines])}
        ray.get([engine.update.remote(args["updated"]) for engine in engines])
        result["updated"] = ray.get([engine.observe.remote() for engine in engines])
        ray.kill(engines[1])
        shutil.rmtree(args["plan"])
        shutil.copytree(args["changed"], args["plan"])
        late = start(args["model"], "second", pinned)
        try:
            result["late"] = f"started: {ray.get(late.observe.remote())}"
        except ray.exceptions.RayError as exc:
            result["late"] = str(exc)
        ray.kill(late)
        result["survivor"] = ray.get(engines[0].observe.remote())
        return result
    finally:
        ray.shutdown()
        cluster.shutdown()
