"""Front ends accept no request that the weights of a worker cannot serve."""

from collections.abc import Callable
from typing import Any

from flashrl_registry.errors import NotServableError


def guard_front_ends(check: Callable[[Any], bytes | None], accepted: Callable[[Any, bytes], None]) -> None:
    """Run ``check(vllm_config)`` before a front end accepts a request.

    It raises to refuse the request, and returns which updates there were where cached prefixes belong to older
    weights; they are dropped then, and ``accepted(vllm_config, updates)`` is told. A refusal further in would leave the
    request in the output processor or kill the engine core. Tested: 0.27.1, 0.32.0. Goes when vLLM lets a model loader
    veto execution.
    """
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

    sync_original, async_original, generate_original = LLMEngine.add_request, AsyncLLM.add_request, AsyncLLM.generate
    if getattr(sync_original, "flashrl_wrapped", False):
        return

    def add_request(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if (updates := check(self.vllm_config)) is not None:
            # A reset is refused while requests run on these blocks; they are computed again then.
            if self.vllm_config.cache_config.enable_prefix_caching and not self.reset_prefix_cache():
                _require_reset(self.reset_prefix_cache(reset_running_requests=True))
            accepted(self.vllm_config, updates)
        return sync_original(self, *args, **kwargs)

    async def add_request_async(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if (updates := check(self.vllm_config)) is not None:
            if self.vllm_config.cache_config.enable_prefix_caching and not await self.reset_prefix_cache():
                _require_reset(await self.reset_prefix_cache(reset_running_requests=True))
            accepted(self.vllm_config, updates)
        return await async_original(self, *args, **kwargs)

    def generate(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        # What is raised further in reaches the program as an EngineGenerateError without a text.
        try:
            check(self.vllm_config)
        except NotServableError as exc:
            raise _unavailable(exc) from exc
        return generate_original(self, *args, **kwargs)

    add_request.flashrl_wrapped = True  # type: ignore[attr-defined]
    LLMEngine.add_request = add_request
    AsyncLLM.add_request = add_request_async
    AsyncLLM.generate = generate


def _require_reset(done: bool) -> None:
    if not done:
        raise NotServableError(
            "prefixes that older weights have cached cannot be dropped now",
            hint="let running requests end, or abort them, and ask again",
        )


def _unavailable(exc: NotServableError) -> NotServableError:
    """The same error in a form that vLLM's HTTP server answers with 503; any other ends the client's connection."""
    from vllm import exceptions

    base = getattr(exceptions, "RetryableRequestError", None)  # not in 0.27.1, whose server answers 500
    if base is None:
        return exc
    answered: type[NotServableError] = type("NotServableError", (NotServableError, base), {})
    return answered(exc.message, hint=exc.hint)
