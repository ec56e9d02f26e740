"""The ``vllm.general_plugins`` entry point.

vLLM calls :func:`register` in every process of an engine. This module imports nothing but the standard library:
vLLM logs and continues when a plugin fails to import, so nothing here may fail before ``register`` runs, and a
program that does not set FLASHRL_CONFIG pays for one environment look-up.
"""


def register() -> None:
    """Make this process run the plan that FLASHRL_CONFIG names; nothing when it is unset."""
    import os

    if not os.environ.get("FLASHRL_CONFIG", "").strip():
        return
    from flashrl_registry.runtime._vllm.install import install

    install()
