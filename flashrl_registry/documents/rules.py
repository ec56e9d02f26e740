"""Rules: what a person writes. ``compile`` turns them into a Plan."""

from typing import Annotated, ClassVar, Literal, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from flashrl_registry.documents._base import Document, Frozen
from flashrl_registry.documents.expressions import compile_expression
from flashrl_registry.documents.names import family_size
from flashrl_registry.documents.quantization import QuantArgs, scheme_of
from flashrl_registry.documents.schemes import SchemeName

RuleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


def _check_range(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as exc:
        raise ValueError(f"'{text}' is not a version range such as >=0.25.1,<0.34") from exc
    return text


def _check_target(target: str) -> str:
    if target.startswith("re:"):
        compile_expression(target)
    elif "{" in target:
        family_size(target)
    return target


VersionRange = Annotated[str, Field(pattern=r"^[0-9A-Za-z.,<>=!~ *+]{1,128}$"), AfterValidator(_check_range)]
Target = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_check_target)]
"""A name, family, glob or regular expression; see ``Rule.targets``."""
SUPPORTED_VLLM = ">=0.25.1,<0.34"


class Rule(Frozen):
    """One decision about the modules that its targets name."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["scheme"]}, {"required": ["weights"]}]})

    name: RuleName
    """Shown by explain and in errors."""
    scheme: SchemeName | None = None
    """What happens to the weights of the modules; their biases stay as they are. Either this or ``weights``."""
    weights: QuantArgs | None = None
    """Instead of ``scheme``: the same in compressed-tensors' arguments."""
    input_activations: QuantArgs | None = None
    """With ``weights``: how the inputs of the modules are quantized."""
    targets: Annotated[list[Target], Field(min_length=1)]
    """Module or tensor names: exact, family (``layers.{0..3}.mlp``), glob (``*.mlp.*``), or ``re:`` and a regular
    expression for the whole name."""
    ignore: list[Target] = []
    """Exceptions to ``targets``, written the same way."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """A rule names a scheme or spells one out."""
        if (self.scheme is None) == (self.weights is None):
            raise ValueError("a rule has either 'scheme' or 'weights'")
        if self.scheme is not None and self.input_activations is not None:
            raise ValueError("'input_activations' belongs to 'weights'; a scheme has its own")
        return self

    def decided_scheme(self) -> SchemeName | None:
        """The scheme that the rule names or spells out; None where no scheme has its arguments."""
        if self.weights is None:
            return self.scheme
        return scheme_of(self.weights, self.input_activations)

    def shown_scheme(self) -> str:
        """The scheme's name, or its arguments in few words, for people."""
        scheme = self.decided_scheme()
        if scheme is not None or self.weights is None:
            return str(scheme)
        args = self.weights
        size = "x".join(map(str, args.block_structure or ())) or str(args.group_size or "")
        return f"{args.type}{args.num_bits} {args.strategy}" + (f" {size}" if size else "")


def _unique_names(rules: list[Rule]) -> list[Rule]:
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise ValueError(f"two rules are named '{rule.name}'; errors and explain name rules")
        seen.add(rule.name)
    return rules


RuleList = Annotated[list[Rule], Field(min_length=1), AfterValidator(_unique_names)]


class EngineSettings(Frozen):
    """What the plan asks of the engine."""

    vllm: VersionRange = SUPPORTED_VLLM
    """vLLM releases that the plan is meant for, as a PEP 440 specifier."""
    logprobs_mode: Literal["processed_logprobs", "raw_logprobs"] = "processed_logprobs"
    """``processed_logprobs`` are those of the distribution that tokens are sampled from."""
    kv_cache_dtype: Literal["bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] | None = None
    """Element type of the KV cache, in vLLM's words; None leaves it to the program."""
    lm_head_dtype: Literal["float32"] | None = None
    """``float32`` computes logits in single precision; None in the model's own dtype."""
    model: Annotated[str, Field(pattern=r"^\S([^\x00-\x1f]*\S)?$", max_length=512)] | None = None
    """Weights that the engine starts with in place of the program's: a folder, or ``owner/name[@revision]`` on the Hub.
    A compressed-tensors checkpoint of the plan's own format gives its codes and scales as they are; a bf16 one goes
    through the plan. Updates always do. None starts with the program's model."""


class UpdateSettings(Frozen):
    """How weight updates are quantized."""

    scales: Literal["recompute", "frozen"] = "recompute"
    """``recompute``: row-absmax scales at every update. ``frozen``: the profile's scales, as FlashRL did."""
    mode: Literal["quarantine", "staged"] | None = None
    """What a failed update leaves. ``quarantine``, the default: an engine that refuses to generate until a complete one
    arrives; costs nothing. ``staged``: the old weights, serving; costs memory for a second set of planned weights."""


class Rules(Document):
    """What a person writes; ``compile`` turns it into a Plan."""

    KIND: ClassVar[str] = "rules"

    schema_version: Literal["flashrl.rules/v1"] = "flashrl.rules/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    description: str = ""
    """For people; not part of the identity."""
    engine: EngineSettings = EngineSettings()
    """Releases, logprobs, KV cache, head and start model of the engine that the plan will run in."""
    update: UpdateSettings = UpdateSettings()
    """Scales of an update, and what a failed one leaves."""
    rules: RuleList
    """Each module of the checkpoint is claimed by exactly one of them."""
