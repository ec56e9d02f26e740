"""A small profile with scores and a plan, whose names try to be markup, formulas and links."""

from dataclasses import dataclass
from typing import Any

from flashrl_registry.compiler import Budget, auto_plan
from flashrl_registry.compiler.groups import fused_groups
from flashrl_registry.documents import (
    BaseModelInfo,
    Inventory,
    LinearFacts,
    Plan,
    Profile,
    QuantArgs,
    QuantizedCheckpoint,
    Sensitivity,
    Sidecar,
    SmoothingGroup,
    TensorFamily,
    TensorSpec,
    base_model_info,
)
from flashrl_registry.documents.sensitivity import MeasuredScheme, MeasuredText, SchemeScore, ScoredGroup

HOSTILE = '</title><script>alert(1)</script> $\\frac{1}{2}$ & "x" https://example.org/a.png #010203 id="a'
LINEARS = [
    f"model.layers.{layer}.{leaf}.weight"
    for layer in range(12)
    for leaf in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                 "mlp.up_proj", "mlp.down_proj")
]  # fmt: skip
NORMS = [f"model.layers.{layer}.input_layernorm.weight" for layer in range(12)]


@dataclass(frozen=True)
class Documents:
    """Of one model."""

    profile: Profile
    sensitivity: Sensitivity
    plan: Plan

    def made(self, **changes: Any) -> Profile:
        """The profile with other content and its own digest."""
        return self.profile.model_copy(update={**changes, "digest": None})


def inventory(name: str) -> Inventory:
    specs = [TensorSpec(name=linear, shape=[8, 8], dtype="bfloat16") for linear in LINEARS]
    specs += [TensorSpec(name=norm, shape=[8], dtype="bfloat16") for norm in NORMS]
    return Inventory(
        name=name, architecture="LlamaForCausalLM", model_type="llama", tied_embeddings=False,
        tensors=sorted(specs, key=lambda spec: spec.name),
    )  # fmt: skip


def linear_facts(name: str, index: int) -> LinearFacts:
    return LinearFacts(
        name=name, rows_checked=8, codes_equal=1 - index / 1000, largest_difference=1, residual_rms=0.29,
        clip_rate=index / 10_000, codes_equal_in_dtype=0.95, rounding="gptq" if index % 5 == 0 else "nearest",
        sqnr_db=40.5, headroom=0.99, num_dead_columns=0,
    )  # fmt: skip


def make_profile(model: Inventory) -> Profile:
    eight = QuantArgs(num_bits=8, type="int", symmetric=True, strategy="channel", dynamic=False)
    return Profile(
        scheme="int8",
        reference=base_model_info(model),
        quantized=QuantizedCheckpoint(name=HOSTILE, format="int-quantized", weights=eight),
        sidecar=Sidecar(digest="sha256:" + "2" * 64, num_bytes=100),
        tensors=[
            TensorFamily(
                names=spec.name, shape=spec.shape, dtype=spec.dtype,
                role="quantized" if spec.name in LINEARS else "rescaled",
            )
            for spec in model.tensors
        ],
        smoothing=[
            SmoothingGroup(
                source=norm, kind="norm", smallest=0.5, largest=20.0,
                targets=[norm.replace("input_layernorm", f"self_attn.{leaf}_proj") for leaf in "qkv"],
            )
            for norm in NORMS
        ],
        linears=[linear_facts(name, index) for index, name in enumerate(LINEARS)],
    )  # fmt: skip


def make_scores(reference: BaseModelInfo, profile: Profile) -> Sensitivity:
    return Sensitivity(
        reference=reference,
        profile=profile.compute_digest(),
        text=MeasuredText(digest="sha256:" + "1" * 64, num_tokens=512, sequence_tokens=128),
        device="cpu",
        versions={"torch": "2.13.0"},
        schemes=[
            MeasuredScheme(scheme="int8", kl=0.01, kl_standard_error=0.001, mean_abs_dlogprob=0.1),
            MeasuredScheme(scheme="fp8_channel", kl=0.03, kl_standard_error=0.001, mean_abs_dlogprob=0.2),
        ],
        groups=[
            ScoredGroup(
                module=module, tensors=names, num_weights=64 * len(names), peak_over_rms=3.0,
                scores=[
                    SchemeScore(scheme="int8", score=1.0 + index, output_error=0.01),
                    SchemeScore(scheme="fp8_channel", score=2.0 + index, output_error=0.02),
                ],
            )
            for index, (module, names) in enumerate(fused_groups(LINEARS).items())
        ],
    )  # fmt: skip


def make_documents() -> Documents:
    """A profile, scores, and the plan that was chosen with them."""
    model = inventory(HOSTILE)
    profile = make_profile(model)
    scores = make_scores(profile.reference, profile)
    plan = auto_plan(model, scores, Budget("bf16", 0.25), profile=profile).compiled.plan
    return Documents(profile, scores, plan)
