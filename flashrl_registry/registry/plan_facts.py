"""What a version's plans say that people search by, from their data: no model of a plan is built."""

from collections.abc import Sequence
from typing import Any

from flashrl_registry.documents import Manifest
from flashrl_registry.registry.plan_folders import PLAN_JSON


def plans_in(manifest: Manifest) -> list[str]:
    """Paths of a version's plans: one, or those of a hybrid's members."""
    return [entry.path for entry in manifest.files if entry.path.rpartition("/")[2] == PLAN_JSON]


def facts_of(plans: Sequence[dict[str, Any]]) -> tuple[str, str, tuple[str, ...]]:
    """Architecture, vLLM range and devices of a version's plans, from their data; the first speaks for the rest."""
    from flashrl_registry.compiler.devices import devices_of

    plan = plans[0]
    treated = [[(str(family["names"]), str(family["treatment"])) for family in each["tensors"]] for each in plans]
    return str(plan["base_model"]["architecture"]), str(plan["engine"]["vllm"]), devices_of(treated)
