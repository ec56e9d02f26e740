"""What ``multi.py`` puts into vLLM's workers: an update from tensors that already lie on the worker's own GPU."""

from typing import Any


class Updates:
    """Mixed into vLLM's Worker."""

    reload_weights: Any

    def update_seconds(self, shape: str, w8a8: bool, rounds: int) -> dict[str, float]:
        """Medians of reloads of a whole checkpoint, which every worker holds."""
        import few_layers  # noqa: F401 - makes its shapes known
        from update import measured, random_tensors

        tensors = dict(random_tensors(shape, w8a8=w8a8)())
        return measured(lambda: self.reload_weights(weights_iterator=iter(tensors.items())), rounds)
