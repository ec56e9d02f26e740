"""ResolvedPlan: a plan fixed for one environment, per tensor, with nothing left to choose."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.profile import Sidecar
from flashrl_registry.documents.tensors import BaseModelInfo, DType, Shape


class Environment(Frozen):
    """The machine as data: attachable to a report, replayable in a test."""

    vllm: str
    """Version of the installed vLLM."""
    device: Literal["cpu", "cuda", "rocm", "xpu", "tpu"]
    """Platform that vLLM runs on."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Workers that share every layer."""


class Keep(Frozen):
    """The tensor enters the engine as the trainer sends it."""

    kind: Literal["keep"] = "keep"
    """Discriminator."""


class Rescale(Frozen):
    """Multiply output channels by a smoothing factor; dtype unchanged."""

    kind: Literal["rescale"] = "rescale"
    """Discriminator."""
    rows: str
    """Source tensor whose ``inv_smoothing`` vector multiplies the first dimension."""
    dead_inputs_of: list[str] | None = None
    """Zero the channels whose columns are zero in the codes of all of these linears; None zeroes nothing."""


class QuantizeInt8(Frozen):
    """Codes in int8 and one float32 scale per row."""

    kind: Literal["int8"] = "int8"
    """Discriminator."""
    rows: str | None = None
    """Source tensor whose ``inv_smoothing`` vector multiplies the rows first."""
    columns: str | None = None
    """Source tensor whose ``inv_smoothing`` vector divides the columns first."""
    scales: Literal["recompute", "frozen"] = "recompute"
    """Row absmax at every update, or the profile's ``weight_scale``."""


class QuantizeFp8(Frozen):
    """Codes in float8_e4m3fn and float32 scales."""

    kind: Literal["fp8_codes"] = "fp8_codes"
    """Discriminator."""
    strategy: Literal["tensor", "channel", "block"]
    """Elements that share a scale: all, a row, or a block of 128 x 128."""


class EngineFp8(Frozen):
    """The tensor is sent as it is, and vLLM quantizes it online."""

    kind: Literal["engine_fp8"] = "engine_fp8"
    """Discriminator."""


TensorOp = Annotated[Keep | Rescale | QuantizeInt8 | QuantizeFp8 | EngineFp8, Field(discriminator="kind")]


class ResolvedTensor(Frozen):
    """One tensor and its operation."""

    name: str
    """Name in the checkpoint."""
    shape: Shape
    """Sizes that an update must have."""
    dtype: DType
    """Element type in the reference checkpoint; rescaled tensors enter the engine in it."""
    op: TensorOp
    """What happens to it."""


class EngineArguments(Frozen):
    """Arguments in the vocabulary of the installed vLLM."""

    logprobs_mode: str
    """vLLM's ``logprobs_mode``."""
    quantization_config: dict[str, Any] | None = None
    """compressed-tensors ``quantization_config`` for ``hf_overrides``; None where the plan makes no codes."""
    quantization: str | None = None
    """vLLM's ``quantization``, a name of its own online methods; None where it quantizes nothing itself."""
    online_ignore: list[str] | None = None
    """Modules that the online method leaves alone."""
    kv_cache_dtype: str | None = None
    """vLLM's ``kv_cache_dtype``; None leaves it to the program."""
    head_dtype: str | None = None
    """``head_dtype`` for ``hf_overrides``; None leaves it to the program."""
    start_model: str | None = None
    """Checkpoint whose weights the engine starts with; None for the program's."""


class ResolvedPlan(Document):
    """A plan fixed for one environment."""

    KIND: ClassVar[str] = "resolved-plan"
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"digest", "schema_revision", "source", "base_model.name"})

    schema_version: Literal["flashrl.resolved-plan/v1"] = "flashrl.resolved-plan/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    digest: Digest | None = None
    """SHA-256 of the identity, and not part of it; every process of the engine must compute the same."""
    source: str = ""
    """The reference that was resolved, for people; not part of the identity."""
    plan_digest: Digest
    """The plan it was resolved from."""
    base_model: BaseModelInfo
    """The model that the plan is for."""
    environment: Environment
    """The machine it was resolved for."""
    engine: EngineArguments
    """What the engine is started with."""
    sidecar: Sidecar | None = None
    """Vectors that the operations refer to."""
    update_mode: Literal["staged"] | None = None
    """``staged`` keeps the old weights serving until an update is complete; None quarantines."""
    tensors: list[ResolvedTensor]
    """Every tensor of the checkpoint, in natural order of the names."""
