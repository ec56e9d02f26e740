"""A compressed-tensors ``quantization_config`` to rules.

It says how a checkpoint's weights are stored. Rules made of it give the bf16 model the same layers; values (scales,
smoothing folded into norms) stay in the checkpoint, which ``flashrl profile`` measures.
"""

from collections.abc import Mapping
from typing import Any

from flashrl_registry.documents import Inventory, Rules
from flashrl_registry.documents.findings import describe, did_you_mean
from flashrl_registry.documents.strict_yaml import Path
from flashrl_registry.interop.findings import Findings
from flashrl_registry.interop.modules import SchemeGroup, rules_for
from flashrl_registry.interop.scheme_args import group_scheme, preset_scheme

CONFIG_KEYS = ("quantization_config", "compression_config")
"""Keys of a config.json; llm-compressor before late 2024 wrote the second."""

_METHOD = "compressed-tensors"
_FORMATS = {None, "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense", "fakequant"}
_INFORMATION = {"quantization_status", "global_compression_ratio", "version", "run_compressed"}
_KNOWN = {"quant_method", "format", "config_groups", "ignore", "kv_cache_scheme", "sparsity_config", "transform_config"}


def find_config(data: Any) -> tuple[Path, dict[str, Any]] | None:
    """Where in a config.json, or in a file of its own, a quantization_config is; None where there is none."""
    if not isinstance(data, dict):
        return None
    if "config_groups" in data or isinstance(data.get("quant_method"), str):
        return (), data
    for key in CONFIG_KEYS:
        if isinstance(data.get(key), dict):
            return (key,), data[key]
    return None


def rules_from_config(found: Findings, inventory: Inventory, *, lossy: bool = False) -> Rules:
    """Rules that say what a quantization_config says.

    Args:
        found: The parsed file; takes notes.
        inventory: The bf16 checkpoint.
        lossy: Inputs that are quantized in another way become notes.

    Returns:
        One rule per group, and bf16 for what no group reaches.

    Raises:
        SchemaError: Names every key that our documents cannot say, and every target that matches nothing.
    """
    place = find_config(found.parsed.data)
    if place is None:
        found.fault((), "holds no quantization_config with config_groups")
        found.check()
        raise AssertionError("check raises where there is a fault")
    base, config = place
    if config.get("quant_method", _METHOD) != _METHOD:  # and no key of it is of this format
        what = describe(config["quant_method"])
        found.fault((*base, "quant_method"), f"is {what}, not {_METHOD}, and no other method is read")
        found.check(hint="make a plan of the bf16 model instead: flashrl-registry compile -m MODEL --scheme SCHEME")
    _check_whole(config, base, found)
    groups = _groups(config.get("config_groups"), (*base, "config_groups"), found, lossy=lossy)
    ignore = [(text, (*base, "ignore", n)) for n, text in enumerate(_strings(config, "ignore", base, found))]
    found.check()
    rules = rules_for(groups, ignore, inventory, found)
    found.check()
    return rules


def _check_whole(config: Mapping[str, Any], base: Path, found: Findings) -> None:
    for key in config:
        if key not in _KNOWN | _INFORMATION:
            found.fault((*base, key), "unknown key" + did_you_mean(key, _KNOWN))
    if config.get("format") not in _FORMATS:
        found.fault((*base, "format"), f"{describe(config['format'])}: weights are packed in a way no scheme here has")
    if config.get("kv_cache_scheme"):
        found.fault(
            (*base, "kv_cache_scheme"),
            "its scales are in the checkpoint; write engine.kv_cache_dtype: fp8 into the rules to use fp8 without them",
        )
    sparsity = config.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        found.fault((*base, "sparsity_config"), f"{describe(sparsity.get('format'))}: nothing here is sparse")
    if config.get("transform_config"):
        found.fault((*base, "transform_config"), "transforms are not applied to weights that are sent here")


def _groups(given: Any, path: Path, found: Findings, *, lossy: bool) -> list[SchemeGroup]:
    if not isinstance(given, dict) or not given:
        found.fault(path, f"must be a map of groups, not {describe(given)}")
        return []
    groups = []
    for name, content in given.items():
        where = (*path, name)
        if isinstance(content, list):  # the name is that of a preset, and the content its targets
            scheme, targets, at = preset_scheme(name, where, found), content, where
        elif isinstance(content, dict):
            scheme = group_scheme(content, where, found, lossy=lossy)
            targets, at = _strings(content, "targets", where, found), (*where, "targets")
        else:
            found.fault(where, f"must be a map, not {describe(content)}")
            continue
        if not targets:
            found.fault(at, "names no target")
        if scheme is not None:
            groups.append(SchemeGroup(name, scheme, tuple(map(str, targets)), at))
    return groups


def _strings(mapping: Mapping[str, Any], key: str, path: Path, found: Findings) -> list[str]:
    value = mapping.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        found.fault((*path, key), f"must be a list of strings, not {describe(value)}")
        return []
    return value
