"""A checkpoint pair to a Profile, streamed.

The headers must correspond. Then each layer is a task of its own (see ``layer.py``): on threads, or on Ray; a result
depends on nothing but its layer, so neither their number nor their order changes a byte. Memory holds a few chunks of
tensors per thread and a layer's vectors. All faults of all layers are reported at once.
"""

import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import (
    LinearFacts,
    Profile,
    SmoothingGroup,
    TensorFamily,
    base_model_info,
    write_document,
)
from flashrl_registry.documents.names import expand, factor, natural_key
from flashrl_registry.documents.profile import Sidecar
from flashrl_registry.documents.tensors import DType
from flashrl_registry.errors import ProfilingError
from flashrl_registry.profiling.faults import refuse
from flashrl_registry.profiling.layer import Layer, Result, Role, Task
from flashrl_registry.profiling.linear import Pair
from flashrl_registry.profiling.output import (
    StoredVector,
    document_path,
    refuse_checkpoint_folder,
    staged,
    write_sidecar,
    writing,
)
from flashrl_registry.profiling.pair import CheckedPair, check_pair, open_pair
from flashrl_registry.profiling.work import WorkFolder, run_key, work_folder

Progress = Callable[[int, int, str, int], None]
"""Called after each tensor of the reference with the number done, the number of all, its name, and the bytes that
were read so far."""
Report = Callable[[Profile, Path], object]
"""Draws a profile into a file."""


def profile_pair(
    reference: str | Path,
    quantized: str | Path,
    output: Path,
    *,
    scheme: str = "int8",
    threads: int = 1,
    every_row: bool = False,
    ray: str | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    report: Report | None = None,
) -> tuple[Path, Profile]:
    """Measure a checkpoint pair and write its profile and the sidecar with its vectors.

    The factor between an up_proj and its down_proj is always measured and stored, also where nothing was folded and
    it is near 1: FlashRL does the same, and profiles of one pair must agree. Everything else is a factor only where
    the tensors say so.

    A run that was killed goes on where it stopped when it is started again; see ``work.py``.

    Args:
        reference: The bf16 checkpoint: a local folder, or ``owner/name[@revision]`` on the Hub as a string.
        quantized: The same model's 8-bit checkpoint.
        output: See :func:`flashrl_registry.profiling.document_path`.
        scheme: ``int8``, ``fp8`` (one scale per tensor), ``fp8_channel`` or ``fp8_block``.
        threads: Layers that are worked on at a time.
        every_row: Requantize every row of every linear for the facts; otherwise a sample of each.
        ray: Run the tasks on Ray: ``auto``, ``local`` or the address of a cluster.
        progress: Called after each tensor.
        note: Called with a line for people where an interrupted run left files that cannot be used.
        report: Draws the profile into the ``.html`` beside the document, before either is put in place.

    Returns:
        Path of the document and the sealed profile. The sidecar lies beside the document. The same pair gives the
        same bytes. Nothing is written where an error is raised.

    Raises:
        CheckpointError: A checkpoint is missing, incomplete or cut short.
        CheckpointMismatchError: The two are not one model, or a relation between their tensors is not known or does
            not hold; lists every tensor.
        ProfilingError: The scheme, or the way the checkpoint is quantized, is not supported; or the output cannot be
            written.
    """
    document = document_path(output)
    checked = check_pair(reference, quantized, scheme)
    refuse_checkpoint_folder(document.parent)
    options = {"every_row": every_row, "scheme": scheme}
    key = run_key(checked.reference.index, checked.quantized.index, document, options)
    with work_folder(document, key) as work:
        tasks = checked.tasks()
        run = _Run(checked, tasks, work, every_row=every_row, progress=progress)
        if note is not None and run.damage is not None:
            note(run.damage)
        results = run.on_ray(ray) if ray is not None else run.on_threads(threads)
        faults = sorted((fault for result in results for fault in result.faults), key=lambda f: natural_key(f.name))
        names = checked.quantized.index.inventory.name, checked.reference.index.inventory.name
        refuse(
            faults,
            f"{names[0]} does not correspond to {names[1]}",
            hint="the pair must be one model; nothing but norms before quantized linears may differ",
        )
        profile = _write(checked, results, work, document, report)
    return document, profile


class _Run:
    """The tasks of one pair, on threads or on Ray."""

    def __init__(
        self, checked: CheckedPair, tasks: list[Task], work: WorkFolder, *, every_row: bool, progress: Progress | None
    ) -> None:
        self._checked, self._tasks, self._work = checked, tasks, work
        self._every_row, self._progress = every_row, progress
        self._num_done, self._total = 0, sum(len(task.names) for task in tasks)
        self._lock = threading.Lock()
        self._pair: Pair | None = None
        self._bytes = 0
        self._found, self.damage = work.finished(tasks)

    def on_threads(self, threads: int) -> list[Result]:
        """Every task's result, in the order of the tasks; their vectors are in the work folder."""
        if threads < 1:
            raise ProfilingError(f"{threads} threads cannot work", hint="--threads 1 or more")
        with open_pair(self._checked, every_row=self._every_row) as pair:
            self._pair = pair
            if threads == 1:
                return [self._measure(number) for number in range(len(self._tasks))]
            pool = ThreadPoolExecutor(threads)
            try:
                return list(pool.map(self._measure, range(len(self._tasks))))
            finally:
                pool.shutdown(cancel_futures=True)

    def on_ray(self, address: str) -> list[Result]:
        """The same on a cluster."""
        from flashrl_registry.profiling.on_ray import measure_on_ray

        results: dict[int, Result] = {}
        waiting = []
        for number, task in enumerate(self._tasks):
            if (found := self._finished(number)) is not None:
                results[number] = found
            else:
                waiting.append((number, task))
        with closing(measure_on_ray(self._checked, waiting, address, every_row=self._every_row)) as measured:
            for number, result, num_bytes in measured:
                self._bytes += num_bytes
                results[number] = self._keep(number, result)
                for name in self._tasks[number].names:
                    self._tick(name)
        return [results[number] for number in range(len(self._tasks))]

    def _measure(self, number: int) -> Result:
        if (found := self._finished(number)) is not None:
            return found
        assert self._pair is not None
        task = self._tasks[number]
        layer = Layer(self._pair, task, self._checked.heads, every_row=self._every_row, tick=self._tick)
        return self._keep(number, layer.run())

    def _finished(self, number: int) -> Result | None:
        found = self._found.get(number)
        if found is not None:
            for name in self._tasks[number].names:
                self._tick(name)
        return found

    def _keep(self, number: int, result: Result) -> Result:
        """Put a result away; the next run of a pair that is refused looks again."""
        if not result.faults:
            self._work.put(number, self._tasks[number], result)
        result.vectors = {}
        return result

    def _tick(self, name: str) -> None:
        with self._lock:
            self._num_done += 1
            if self._progress is not None:
                read = self._bytes
                if self._pair is not None:
                    read += self._pair.reference.bytes_read + self._pair.quantized.bytes_read
                self._progress(self._num_done, self._total, name, read)


def _write(
    checked: CheckedPair, results: list[Result], work: WorkFolder, document: Path, report: Report | None
) -> Profile:
    """Put everything in place, or nothing."""
    vectors: dict[str, StoredVector] = {}
    for number in range(len(results)):
        vectors |= work.vectors(number)
    folder = document.parent
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    before = {file.name for file in folder.glob("*.safetensors")}
    sidecar: Sidecar | None = None
    try:
        sidecar = write_sidecar(vectors, folder)
        profile = _profile(checked, sidecar, results)
        page = document.with_suffix(".html")
        with writing(document), staged([document] if report is None else [page, document]) as places:
            write_document(profile, places[-1])
            if report is not None:
                with writing(page):
                    report(profile, places[0])
    except BaseException:
        if new:
            shutil.rmtree(new[-1], ignore_errors=True)
        elif sidecar is not None and sidecar.file_name not in before:
            (folder / sidecar.file_name).unlink(missing_ok=True)
        raise
    return profile


def _profile(checked: CheckedPair, sidecar: Sidecar, results: Iterable[Result]) -> Profile:
    roles: dict[str, Role] = {}
    groups: list[SmoothingGroup] = []
    facts: list[LinearFacts] = []
    for result in results:
        roles |= result.roles
        groups += result.groups
        facts += result.facts
    scheme = checked.form.scheme
    assert scheme is not None
    profile = Profile(
        scheme=scheme,
        reference=base_model_info(checked.reference.index.inventory),
        quantized=checked.form.checkpoint,
        sidecar=sidecar,
        tensors=_families(checked.reference.index, roles),
        smoothing=sorted(groups, key=lambda group: natural_key(group.source)),
        linears=sorted(facts, key=lambda linear: natural_key(linear.name)),
    )
    return profile.model_copy(update={"digest": profile.compute_digest()})


def _families(reference: CheckpointIndex, roles: dict[str, Role]) -> list[TensorFamily]:
    alike: dict[tuple[tuple[int, ...], DType, Role], list[str]] = defaultdict(list)
    for spec in reference.inventory.tensors:
        alike[tuple(spec.shape), spec.dtype, roles[spec.name]].append(spec.name)
    families = [
        TensorFamily(names=names, shape=list(shape), dtype=dtype, role=role)
        for (shape, dtype, role), members in alike.items()
        for names in factor(members)
    ]
    return sorted(families, key=lambda family: natural_key(expand(family.names)[0]))
