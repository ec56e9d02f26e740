"""A checkpoint pair as a user names it: folders, or models on the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.checkpoints import CheckpointIndex, HubFiles, hub_id, read_checkpoint, read_remote_index
from flashrl_registry.documents.names import natural_key
from flashrl_registry.errors import CheckpointMismatchError, ProfilingError
from flashrl_registry.profiling.channels import Heads, read_heads
from flashrl_registry.profiling.correspondence import corresponding_linears
from flashrl_registry.profiling.formats import Format, asked_scheme, check_reference, check_scheme, read_format
from flashrl_registry.profiling.layer import Task
from flashrl_registry.profiling.layout import COMPILED_FROM, loops
from flashrl_registry.profiling.linear import Pair
from flashrl_registry.profiling.reader import TensorReader
from flashrl_registry.profiling.relations import module_pattern


@dataclass(frozen=True)
class Source:
    """One checkpoint.

    Attributes:
        index: Its headers.
        files: Where its bytes are; None for local files.
    """

    index: CheckpointIndex
    files: HubFiles | None

    @property
    def address(self) -> str:
        """What opens the same checkpoint in another process: a folder, or a model at its commit."""
        if self.files is None:
            return str(self.index.folder.absolute())
        return f"{self.files.repo_id}@{self.files.revision}"


def open_source(model: str | Path) -> Source:
    """Read a checkpoint's headers.

    Args:
        model: A local folder, or ``owner/name[@revision]`` on the Hub. What exists as a path is a path.

    Raises:
        CheckpointError: It is missing, incomplete or cannot be reached.
    """
    remote = hub_id(str(model)) if isinstance(model, str) else None
    if remote is None:
        return Source(read_checkpoint(Path(model).expanduser()), None)
    return Source(*read_remote_index(*remote))


@dataclass(frozen=True)
class CheckedPair:
    """Two checkpoints whose headers correspond.

    Attributes:
        reference: The bf16 one.
        quantized: The low-bit one.
        form: How it is quantized.
        linears: Weights that are codes, in natural order.
        heads: Attention heads of the model.
    """

    reference: Source
    quantized: Source
    form: Format
    linears: list[str]
    heads: Heads | None

    def tasks(self) -> list[Task]:
        """Layers, then what belongs to none: the larger tensors of those one by one."""
        members: dict[str, list[str]] = {}
        is_linear = set(self.linears)
        for spec in self.reference.index.inventory.tensors:
            prefix = module_pattern(spec.name)[0]
            alone = not prefix and len(spec.shape) > 1 and spec.name not in is_linear
            members.setdefault(spec.name if alone else prefix, []).append(spec.name)
        return [
            Task(key or "rest", tuple(names), tuple(sorted(is_linear.intersection(names), key=natural_key)))
            for key, names in members.items()
        ]


def check_pair(reference: str | Path, quantized: str | Path, scheme: str | None) -> CheckedPair:
    """Read both checkpoints' headers and match them.

    Args:
        reference: The bf16 checkpoint; see :func:`open_source`.
        quantized: The low-bit one.
        scheme: What ``--fn`` says; None takes whatever the pair holds.

    Raises:
        CheckpointError: A checkpoint is missing, incomplete or cut short.
        CheckpointMismatchError: The two are not one model; lists every tensor.
        ProfilingError: The scheme, or the way the checkpoint is quantized, is not supported.
    """
    asked = None if scheme is None else asked_scheme(scheme)
    ours, theirs = open_source(reference), open_source(quantized)
    check_reference(ours.index)
    form = read_format(theirs.index)
    if asked is not None:
        check_scheme(form, asked)
    elif form.scheme is None:
        raise ProfilingError(f"no profile is made of fp8 with one scale per {form.checkpoint.weights.strategy}")
    _check_models(ours.index, theirs.index)
    linears = corresponding_linears(ours.index, theirs.index, form)
    return CheckedPair(ours, theirs, form, linears, read_heads(ours.index.config))


def _check_models(reference: CheckpointIndex, quantized: CheckpointIndex) -> None:
    ours, theirs = reference.inventory, quantized.inventory
    if "unknown" not in (ours.model_type, theirs.model_type) and ours.model_type != theirs.model_type:
        raise CheckpointMismatchError(
            f"{theirs.name} does not correspond to {ours.name}: one is a {theirs.model_type} model, the other a "
            f"{ours.model_type} model",
            hint="the pair must be one model, once in bf16 and once in low precision",
        )


@contextmanager
def open_pair(checked: CheckedPair, *, every_row: bool) -> Iterator[Pair]:
    """Both checkpoints, ready to be read."""
    ours, theirs = checked.reference, checked.quantized
    num_codes = sum(theirs.index.locations[name].num_bytes for name in checked.linears)
    inner = loops(compiled=every_row or num_codes >= COMPILED_FROM or checked.form.code_dtype != "int8")
    with (
        TensorReader(ours.index, inner, ours.files) as first,
        TensorReader(theirs.index, inner, theirs.files) as second,
    ):
        yield Pair(first, second, checked.form, inner)
