"""What differs between vLLM releases in the words that a plan is lowered to.

One row per range of releases, each tested against an installed vLLM of that range; a release outside every row has no
words of ours, and a plan that names it is refused by its own ``engine.vllm``.
"""

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import Version


@dataclass(frozen=True)
class Dialect:
    """The words of some releases.

    Attributes:
        releases: PEP 440 range.
        online_fp8: ``quantization`` that makes vLLM quantize to float8 per tensor as it loads. The older name ``fp8``
            means this up to 0.27 and only float8 checkpoints from 0.32.
        honours_head_dtype: ``hf_overrides['head_dtype']`` reaches the logits.
    """

    releases: str
    online_fp8: str
    honours_head_dtype: bool


DIALECTS = (
    Dialect(">=0.25.1,<0.27", online_fp8="fp8_per_tensor", honours_head_dtype=False),
    Dialect(">=0.27", online_fp8="fp8_per_tensor", honours_head_dtype=True),
)


def dialect_of(vllm: str) -> Dialect:
    """The words of a release; those of the newest row for a newer one."""
    release = Version(vllm).public
    found = [row for row in DIALECTS if SpecifierSet(row.releases).contains(release, prereleases=True)]
    return found[0] if found else DIALECTS[0]
