"""What the plan made of the last complete update: a fingerprint per row, to be compared with what is resident."""

import torch

from flashrl_registry.runtime.fingerprint import fingerprint_and_check

SCALE = "_scale"


class Sent:
    """Fingerprints and scales by tensor name; those of an update replace the last ones only when it is complete.

    Args:
        shards: Workers that share a layer; columns are told apart in as many slices where they divide.
    """

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._coming: dict[str, torch.Tensor] = {}
        self.rows: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """Forget an update that was never completed."""
        self._coming = {}

    def take(self, name: str, value: torch.Tensor) -> torch.Tensor | bool:
        """Note one tensor that goes to the engine: codes, scales, or as it was sent.

        Returns:
            Whether it is finite in the engine's dtype, true for codes; one bool on its device, if that is not a CPU.
        """
        if value.is_floating_point() and value.element_size() > 1 and not name.endswith(SCALE):
            value = value.to(torch.get_default_dtype())  # what the engine's parameter holds
        if value.dim() == 0:
            value = value.reshape(1)
        self._coming[name], finite = fingerprint_and_check(value, chunks=self.chunks(value))
        return finite

    def note(self, name: str, rows_RC: torch.Tensor) -> None:
        """Note the fingerprints of a tensor that was written in place."""
        self._coming[name] = rows_RC

    def chunks(self, value: torch.Tensor) -> int:
        """Slices of columns that are told apart."""
        return self._shards if value.dim() == 2 and value.shape[1] % self._shards == 0 else 1

    def commit(self) -> None:
        """The update is complete; a partial one leaves the others' fingerprints in place."""
        self.rows.update(self._coming)
        self._coming = {}
