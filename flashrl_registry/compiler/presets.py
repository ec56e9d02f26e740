"""Rules that a scheme name stands for, made from the checkpoint's own names."""

from flashrl_registry.compiler.modules import is_linear_weight, module_of
from flashrl_registry.documents import SCHEMES, Inventory, Profile, Rule, Rules, SchemeName
from flashrl_registry.documents.names import expand, factor

PRESETS = SCHEMES

# Encoders beside the language model: small, run once per image, and unmeasured under these schemes.
_ENCODERS = {"vision_tower", "vision_model", "visual", "multi_modal_projector", "audio_tower", "mm_projector"}


def preset_rules(scheme: SchemeName, inventory: Inventory, profile: Profile | None = None) -> Rules:
    """Rules for one scheme over a whole model.

    Args:
        scheme: One of :data:`PRESETS`.
        inventory: The checkpoint's tensors.
        profile: Quantize the linears that the profile's quantized checkpoint quantizes. Without one, every linear
            except embeddings, heads, routers and encoders of other inputs.

    Returns:
        Rules whose targets are families of the checkpoint's own names.
    """
    if scheme == "bf16":
        return Rules(rules=[Rule(name="everything", scheme="bf16", targets=["*"])])
    if profile is not None:
        low = {name for family in profile.tensors if family.role == "quantized" for name in expand(family.names)}
    else:
        low = set(default_linears(inventory))
    low_modules = {module_of(name) for name in low}
    rest = {module for tensor in inventory.tensors if (module := module_of(tensor.name)) not in low_modules}
    rules = [Rule(name="linears", scheme=scheme, targets=factor(low_modules))] if low_modules else []
    if rest:
        rules.append(Rule(name="rest", scheme="bf16", targets=factor(rest)))
    return Rules(rules=rules)


def default_linears(inventory: Inventory) -> list[str]:
    """Weights that a scheme over a whole model quantizes: not embeddings, heads, routers and encoders."""
    return [
        tensor.name
        for tensor in inventory.tensors
        if is_linear_weight(tensor) and _ENCODERS.isdisjoint(tensor.name.split("."))
    ]
