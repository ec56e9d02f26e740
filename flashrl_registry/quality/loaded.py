"""A model and text for it, by transformers."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashrl_registry.checkpoints import read_inventory
from flashrl_registry.compiler.presets import default_linears
from flashrl_registry.documents import Inventory, TensorSpec
from flashrl_registry.documents.sensitivity import MeasuredText
from flashrl_registry.errors import CheckpointError, ProfilingError
from flashrl_registry.quality.places import Place, find_places

SHORTEST = 16
"""A sequence of fewer tokens is left out: a model knows nothing yet."""


@dataclass(frozen=True)
class Loaded:
    """A bf16 model, held in float32.

    Attributes:
        model: transformers' model, in evaluation mode, whose weights take no gradient.
        tokenizer: Its tokenizer.
        inventory: The checkpoint's tensors.
        places: Where its linears are.
        lost: Linears that are nowhere, with the reason.
        specs: Tensor to its shape and dtype.
    """

    model: nn.Module
    tokenizer: Any
    inventory: Inventory
    places: dict[str, Place]
    lost: dict[str, str]
    specs: dict[str, TensorSpec]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device


def load(model: str, device: str | None = None) -> Loaded:
    """Load a bf16 model.

    Args:
        model: A folder, or ``owner/name[@revision]`` on the Hub.
        device: torch's name of it; None takes a GPU where there is one.

    Raises:
        CheckpointError: It cannot be read, or transformers does not know it.
        ProfilingError: torch cannot use the device.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where_to = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    inventory = read_inventory(model)
    name, _, revision = (model, "", "") if Path(model).expanduser().is_dir() else model.partition("@")
    where = {"revision": revision} if revision else {}
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        loaded = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **where)
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise CheckpointError(f"transformers cannot load {model}: {first}", hint="it is read as a causal LM") from exc
    return prepared(loaded, tokenizer, inventory, where_to)


def _usable(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:  # a torch without CUDA asserts
        first = str(exc).partition("\n")[0]
        raise ProfilingError(
            f"torch cannot use the device '{device}': {first}", hint="say cpu, cuda or cuda:1"
        ) from exc
    return device


@contextmanager
def enough_memory() -> Iterator[None]:
    """Say what to do where a GPU's memory does not last.

    Raises:
        ProfilingError: It did not last.
    """
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise ProfilingError(
            "the GPU's memory does not hold the model twice in float32 and one sequence",
            hint="take shorter sequences (--sequence), or --device cpu",
        ) from exc


def prepared(model: Any, tokenizer: Any, inventory: Inventory, device: str) -> Loaded:
    """Make a model of transformers ready to be measured, in place.

    Args:
        model: A causal language model in float32.
        tokenizer: Its tokenizer, for text.
        inventory: The tensors of its checkpoint.
        device: torch's name of it.

    Raises:
        CheckpointError: None of its linears has a name of the checkpoint's.
    """
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # one linear per expert, whose inputs can be seen
    model.requires_grad_(False).eval()
    model.to(device)
    places, lost = find_places(model, inventory, default_linears(inventory))
    if not places:
        raise CheckpointError(
            f"none of the linears of {inventory.name} is found in transformers' {type(model).__name__}",
            hint="sensitivity and quality need a model whose linears have the checkpoint's names",
        )
    specs = {tensor.name: tensor for tensor in inventory.tensors}
    return Loaded(model, tokenizer, inventory, places, lost, specs)


def sequences_of(tokenizer: Any, files: Sequence[Path], *, num_tokens: int, sequence_tokens: int) -> list[Tensor]:
    """Cut text into sequences of tokens.

    Args:
        tokenizer: The model's.
        files: UTF-8 text, in this order.
        num_tokens: Tokens in all; the text's first ones.
        sequence_tokens: Tokens of a sequence; a file's last one may be shorter.

    Returns:
        Token ids, int64, each of shape (1, T).

    Raises:
        ProfilingError: A file cannot be read, or the files hold no text.
    """
    sequences: list[Tensor] = []
    left = num_tokens
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ProfilingError(f"{file} cannot be read as text: {exc}", hint="give UTF-8 text files") from exc
        ids = tokenizer(text, add_special_tokens=False).input_ids[:left]
        for start in range(0, len(ids), sequence_tokens):
            piece = ids[start : start + sequence_tokens]
            if len(piece) >= min(SHORTEST, sequence_tokens):
                sequences.append(torch.tensor([piece]))
                left -= len(piece)
    if not sequences:
        raise ProfilingError(
            f"no text in {', '.join(map(str, files))}: a file gives at least {SHORTEST} tokens",
            hint="give text like what the model will write",
        )
    return sequences


def text_for(loaded: Loaded, files: Sequence[Path], *, num_tokens: int, sequence_tokens: int) -> list[Tensor]:
    """Text cut into sequences of tokens that a model knows; as :func:`sequences_of`.

    Raises:
        ProfilingError: As there, or a token is beyond the model's vocabulary.
    """
    sequences = sequences_of(loaded.tokenizer, files, num_tokens=num_tokens, sequence_tokens=sequence_tokens)
    known = loaded.model.get_input_embeddings().weight.shape[0]
    largest = max(int(tokens.max()) for tokens in sequences)
    if largest >= known:
        raise ProfilingError(
            f"the tokenizer of {loaded.inventory.name} turns the text into token ids up to {largest} "
            f"({loaded.tokenizer.convert_ids_to_tokens(largest)!r}), and the model's embedding has {known} rows",
            hint="the tokenizer's files are another model's, or its vocabulary grew and the embedding did not",
        )
    return sequences


def measured_text(sequences: Sequence[Tensor]) -> MeasuredText:
    """The identity of some sequences."""
    lines = "".join(" ".join(map(str, tokens[0].tolist())) + "\n" for tokens in sequences)
    return MeasuredText(
        digest="sha256:" + hashlib.sha256(lines.encode()).hexdigest(),
        num_tokens=sum(tokens.shape[1] for tokens in sequences),
        sequence_tokens=max(tokens.shape[1] for tokens in sequences),
    )


def versions() -> dict[str, str]:
    """Releases that take part."""
    import transformers

    from flashrl_registry import __version__

    return {"flashrl-registry": __version__, "torch": torch.__version__, "transformers": transformers.__version__}


def device_name(device: torch.device) -> str:
    """A device for people."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads"
