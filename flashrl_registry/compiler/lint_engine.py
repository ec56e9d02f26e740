"""What a plan asks of engines that would not give it, for every vLLM release that it admits."""

from packaging.specifiers import SpecifierSet

from flashrl_registry.compiler.dialect import dialect_of
from flashrl_registry.documents import EngineSettings
from flashrl_registry.documents.rules import SUPPORTED_VLLM
from flashrl_registry.errors import Diagnostic

# vLLM counts minors; a range is judged by releases that exist or may, since sets of versions cannot be subtracted.
_RELEASES = [f"0.{minor}.{patch}" for minor in range(60) for patch in range(4)] + ["1.0.0", "2.0.0"]


def lint_engine(engine: EngineSettings) -> list[Diagnostic]:
    """Lint the engine settings of rules or of a plan."""
    admitted = list(SpecifierSet(engine.vllm).filter(_RELEASES))
    tested = set(SpecifierSet(SUPPORTED_VLLM).filter(_RELEASES))
    usable = [release for release in admitted if release in tested]
    if not usable:
        message = f"'{engine.vllm}' admits no vLLM that this release runs on ({SUPPORTED_VLLM})"
        return [Diagnostic("empty-vllm-range", "error", "engine.vllm", message, f"write '{SUPPORTED_VLLM}'")]
    found = []
    if untested := [release for release in admitted if release not in tested]:
        message = f"'{engine.vllm}' admits vLLM {untested[0]}, and this release was tested on {SUPPORTED_VLLM}"
        found.append(Diagnostic("untested-vllm", "warning", "engine.vllm", message, f"write '{SUPPORTED_VLLM}'"))
    if engine.lm_head_dtype is not None:
        deaf = [release for release in usable if not dialect_of(release).honours_head_dtype]
        heard = [release for release in usable if release not in deaf]
        if deaf:
            message = f"vLLM {deaf[0]}, which '{engine.vllm}' admits, ignores it; a plan is refused there"
            hint = f"admit vLLM {heard[0]} and newer only" if heard else "remove it, or admit newer releases of vLLM"
            found.append(Diagnostic("engine-field-ignored", "warning", "engine.lm_head_dtype", message, hint))
    return found
