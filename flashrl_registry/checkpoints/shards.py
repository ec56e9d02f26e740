"""The files that a checkpoint is split into: are they all there, and does the index say what is in them?"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashrl_registry.checkpoints.json_object import read_json
from flashrl_registry.documents.names import natural_key
from flashrl_registry.errors import CheckpointError

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5,6})-of-(?P<total>[0-9]{5,6})\.safetensors")
_NAMED = 5


def checkpoint_files(folder: Path) -> tuple[list[Path], dict[str, Any] | None]:
    """The safetensors files of a folder.

    Returns:
        Those that the index names, and its map of tensor to file; without an index all there are, and None.

    Raises:
        CheckpointError: There are none, some are missing, or the index is not understood.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index, unique=True).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index} has no weight_map")
        names = sorted({str(file) for file in weight_map.values()})
        if bad := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{index} names files outside the folder: {', '.join(bad)}")
        if missing := [name for name in names if not (folder / name).exists()]:
            raise _missing_shards(folder, missing)
        return [folder / name for name in names], weight_map
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no *.safetensors file", hint="convert the checkpoint to safetensors")
    _check_numbers(folder, files)
    return files, None


def _check_numbers(folder: Path, files: Iterable[Path]) -> None:
    """Files that are numbered ``-00001-of-00003`` say how many they are.

    Raises:
        CheckpointError: Some are missing, or a number is too large.
    """
    splits: dict[tuple[str, str], set[int]] = {}
    for file in files:
        if found := _SHARD.fullmatch(file.name):
            splits.setdefault((found["stem"], found["total"]), set()).add(int(found["number"]))
    for (stem, total), numbers in splits.items():
        if max(numbers) > int(total) or min(numbers) < 1:
            raise CheckpointError(f"{folder}: {stem}-*-of-{total}.safetensors: there is no {max(numbers)} of {total}")
        missing = sorted(set(range(1, int(total) + 1)) - numbers)
        if missing:
            width = len(total)
            raise _missing_shards(folder, [f"{stem}-{number:0{width}}-of-{total}.safetensors" for number in missing])


def _missing_shards(folder: Path, names: list[str]) -> CheckpointError:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return CheckpointError(
        f"{folder}: shards are missing: {', '.join(names[:_NAMED])}{more}",
        hint="the download is incomplete; get the missing files",
    )


def check_weight_map(weight_map: Mapping[str, Any], found: Mapping[str, str], where: str) -> None:
    """Compare a shard index with what the shards hold.

    Args:
        weight_map: Tensor to file, as the index has it.
        found: Tensor to file, as the headers have it.
        where: The checkpoint, for messages.

    Raises:
        CheckpointError: They differ; names the first tensors.
    """
    wrong = [name for name in {**weight_map, **found} if weight_map.get(name) != found.get(name)]
    if not wrong:
        return
    shown = []
    for name in sorted(wrong, key=natural_key)[:_NAMED]:
        place = f"in {found[name]}" if name in found else "in no file"
        claim = f"the index says {weight_map[name]}" if name in weight_map else "the index does not name it"
        shown.append(f"{name} ({place}; {claim})")
    raise CheckpointError(
        f"{where}: model.safetensors.index.json and the shards disagree on {len(wrong)} tensors: {', '.join(shown)}"
        + (", ..." if len(wrong) > _NAMED else ""),
        hint="the download is incomplete, or the index belongs to another checkpoint",
    )
