"""An llm-compressor recipe to rules.

A recipe is stages of modifiers, each a map from a modifier's class to its settings. Which layers get which scheme is
what a plan decides too; how scales and roundings are found (calibration) is not: here scales come from the weights
of each update, and smoothing from a profile.
"""

from collections.abc import Iterator
from typing import Any

from flashrl_registry.documents import Inventory, Rules
from flashrl_registry.documents.findings import describe, did_you_mean
from flashrl_registry.documents.strict_yaml import Path
from flashrl_registry.interop.findings import Findings
from flashrl_registry.interop.modules import LINEAR, SchemeGroup, rules_for
from flashrl_registry.interop.scheme_args import group_scheme, preset_scheme

_STAGE, _MODIFIERS = "_stage", "_modifiers"
_QUANTIZING = ("QuantizationModifier", "GPTQModifier")
_SMOOTHING = "SmoothQuantModifier"
_DECISIONS = {"targets", "ignore", "scheme", "config_groups", "kv_cache_scheme"}
_STAGE_INFORMATION = {"run_type", "args", "metadata"}
# How scales and roundings are calibrated: no plan depends on them.
_CALIBRATION = {
    "block_size", "dampening_frac", "actorder", "offload_hessians", "sequential_update", "sequential_targets",
    "disable_quantization_observer_epoch", "num_calibration_steps", "index", "group", "start", "end", "update",
    "initialized_", "finalized_", "started_", "ended_", "weight_observer", "input_observer", "output_observer",
    "observer", "bypass_divisibility_checks", "percdamp",
}  # fmt: skip


def is_recipe(data: Any) -> bool:
    """Whether parsed data looks like a recipe: stages, or modifiers at the top."""
    if not isinstance(data, dict):
        return False
    return any(key.endswith((_STAGE, _MODIFIERS, "Modifier")) for key in data)


def rules_from_recipe(found: Findings, inventory: Inventory, *, lossy: bool = False) -> Rules:
    """Rules that give layers the schemes of a recipe.

    Args:
        found: The parsed file; takes notes.
        inventory: The bf16 checkpoint.
        lossy: Inputs that are quantized in another way become notes.

    Returns:
        One rule per quantizing group, and bf16 for what none reaches.

    Raises:
        SchemaError: Names every modifier and key that our documents cannot say.
    """
    groups: list[SchemeGroup] = []
    ignore: list[tuple[str, Path]] = []
    for path, name, settings in _modifiers(found):
        if name in _QUANTIZING:
            new, ignored = _quantizing(name, settings, path, found, lossy=lossy)
            groups += new
            ignore += ignored
        elif name == _SMOOTHING:
            found.note(
                "SmoothQuantModifier: smoothing is measured, not asked for; profile the checkpoint that the recipe "
                "made and give the profile with --profile"
            )
        else:
            message = "changes weights in a way that no plan repeats at every update"
            found.fault(path, message + did_you_mean(name, [*_QUANTIZING, _SMOOTHING]))
    if not groups and not found.faults:
        found.fault((), "holds no modifier that quantizes")
    found.check()
    rules = rules_for(groups, ignore, inventory, found)
    found.check()
    return rules


def _modifiers(found: Findings) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Every modifier of every stage; faults for keys that llm-compressor would pass over."""
    data = found.parsed.data
    if not isinstance(data, dict):
        found.fault((), f"a recipe is a map of stages, not {describe(data)}")
        return
    for key, value in data.items():
        if key.endswith(_STAGE) and isinstance(value, dict):
            for inner, content in value.items():
                if inner.endswith(_MODIFIERS):
                    yield from _of_group(content, (key, inner), found)
                elif inner not in _STAGE_INFORMATION:
                    found.fault((key, inner), f"does not end in {_MODIFIERS}, so llm-compressor passes over it")
        elif key.endswith(_MODIFIERS):
            yield from _of_group(value, (key,), found)
        elif key.endswith("Modifier"):
            yield from _of_group({key: value}, (), found)
        elif key not in _STAGE_INFORMATION | {"version", "args"}:
            found.fault((key,), f"does not end in {_STAGE}, so llm-compressor passes over it")


def _of_group(content: Any, path: Path, found: Findings) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    if not isinstance(content, dict):
        found.fault(path, f"must be a map of modifiers, not {describe(content)}")
        return
    for name, settings in content.items():
        if settings is not None and not isinstance(settings, dict):
            found.fault((*path, name), f"must be a map, not {describe(settings)}")
        else:
            yield (*path, name), name, settings or {}


def _quantizing(
    name: str, settings: dict[str, Any], path: Path, found: Findings, *, lossy: bool
) -> tuple[list[SchemeGroup], list[tuple[str, Path]]]:
    calibration = [key for key in settings if key in _CALIBRATION]
    if calibration or name == "GPTQModifier":
        found.note(f"{name} calibrates roundings ({', '.join(calibration) or 'GPTQ'}); updates round to nearest")
    for key in settings:
        if key not in _DECISIONS | _CALIBRATION:
            found.fault((*path, key), "is not expressible" + did_you_mean(key, _DECISIONS))
    if settings.get("kv_cache_scheme"):
        found.fault((*path, "kv_cache_scheme"), "its scales are calibrated; rules have engine.kv_cache_dtype instead")
    ignore = [(text, (*path, "ignore")) for text in _strings(settings, "ignore", path, found)]
    targets = tuple(_strings(settings, "targets", path, found)) or (LINEAR,)
    scheme, config_groups = settings.get("scheme"), settings.get("config_groups")
    if (scheme is None) == (not config_groups):
        found.fault(path, "has one of 'scheme' and 'config_groups'")
        return [], ignore
    groups = []
    if isinstance(scheme, str):
        if preset := preset_scheme(scheme, (*path, "scheme"), found):
            groups.append(SchemeGroup(scheme, preset, targets, (*path, "targets")))
    elif scheme is not None:
        groups += _preset_map(scheme, (*path, "scheme"), found)
    else:
        groups += _config_groups(config_groups, (*path, "config_groups"), found, lossy=lossy)
    return groups, ignore


def _preset_map(scheme: Any, path: Path, found: Findings) -> Iterator[SchemeGroup]:
    """``scheme: {W8A8: [targets]}``."""
    if not isinstance(scheme, dict):
        found.fault(path, f"must be a preset's name or a map of presets, not {describe(scheme)}")
        return
    for name in scheme:
        targets = tuple(_strings(scheme, name, path, found))
        if preset := preset_scheme(name, (*path, name), found):
            yield SchemeGroup(name, preset, targets, (*path, name))


def _config_groups(given: Any, path: Path, found: Findings, *, lossy: bool) -> Iterator[SchemeGroup]:
    if not isinstance(given, dict):
        found.fault(path, f"must be a map of groups, not {describe(given)}")
        return
    for name, content in given.items():
        if not isinstance(content, dict):
            found.fault((*path, name), f"must be a map, not {describe(content)}")
            continue
        scheme = group_scheme(content, (*path, name), found, lossy=lossy)
        targets = tuple(_strings(content, "targets", (*path, name), found))
        if scheme is not None:
            yield SchemeGroup(name, scheme, targets, (*path, name, "targets"))


def _strings(mapping: dict[str, Any], key: str, path: Path, found: Findings) -> list[str]:
    """A list of strings; llm-compressor takes one string for a list of it."""
    value = mapping.get(key)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        found.fault((*path, key), f"must be a list of strings, not {describe(value)}")
        return []
    return items
