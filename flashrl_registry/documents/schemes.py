"""Names of the schemes, which rules, references and commands share; known without building a document."""

from typing import Literal

SchemeName = Literal["bf16", "fp8", "fp8_tensor", "fp8_channel", "fp8_block", "int8", "int8_prune"]
"""``bf16``: the tensor stays as the trainer sends it. ``fp8``: vLLM's own online quantization, per tensor.
``fp8_tensor``, ``fp8_channel``, ``fp8_block``: float8_e4m3fn codes made by this project, with one scale per tensor,
per output channel or per block of 128 x 128; activations dynamic. ``int8``: W8A8, per-channel symmetric weights,
per-token dynamic activations, with the profile's smoothing where there is a profile. ``int8_prune``: int8, and norm
channels that all of their linears ignore are zeroed (FlashRL's dead-neuron pruning)."""

SCHEMES: tuple[SchemeName, ...] = ("bf16", "fp8", "fp8_tensor", "fp8_channel", "fp8_block", "int8", "int8_prune")

SYNONYMS: dict[str, SchemeName] = {
    "fp8_vllm": "fp8",
    "fp8_fast": "fp8",
    "fp8_vllm_fast": "fp8",
    "int8_fast": "int8",
    "int8_wo_prune": "int8",
}
"""FlashRL's other names. Commands, FLASHRL_CONFIG and FlashRL's own files may use them; documents never do."""


def canonical_scheme(name: str) -> SchemeName | None:
    """The scheme that a name or FlashRL's synonym stands for; None for any other text."""
    for scheme in SCHEMES:
        if name == scheme:
            return scheme
    return SYNONYMS.get(name)
