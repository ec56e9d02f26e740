"""Damaged documents: whatever happens to a file, the answer is a document or a typed error, and quickly."""

import contextlib
import random
import time
from pathlib import Path

import pytest

from flashrl_registry.documents import read_any
from flashrl_registry.errors import FlashRLError

VALID = sorted((Path(__file__).parents[2] / "data" / "documents" / "valid").glob("*/*"))
SPLICES = [
    b"", b"\0", b"\xff", b"\t", b"\n", b": ", b"- ", b"&a ", b"*a", b"!!int ", b"[", b"]", b"{", b"}", b"'", b'"', b"#",
    b"-1", b"0.5", b"1e400", b"99999999999999999999", b".nan", b"null", b"true", b"[]", b"{}", b"\\u", b"\\ud83d",
    b"{0..9}", b"{9..0}", b"{0..249999}.{0..9}", b"re:(", b"a" * 600, b"sha256:", b"flashrl.plan/v1", b"flashrl.x/v9",
    b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"%YAML 1.1\n", b"---\n", b"<<: ", b"? ",
]  # fmt: skip
CASES = 1500


def mutated(data: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(data) + 1)
        kind = dice.random()
        if kind < 0.5:  # put something in place of a little
            data = data[:start] + dice.choice(SPLICES) + data[start + dice.choice((0, 0, 1, 4, 20)) :]
        elif kind < 0.7:  # repeat or drop a line
            lines = data.split(b"\n")
            line = dice.randrange(len(lines))
            lines[line : line + 1] = [lines[line]] * dice.choice((0, 2, 2, 40))
            data = b"\n".join(lines)
        elif kind < 0.8:
            data = data[:start]
        else:  # exchange a value for another of the same file
            lines = data.split(b"\n")
            one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
            lines[one] = lines[one].partition(b":")[0] + b":" + lines[other].partition(b":")[2]
            data = b"\n".join(lines)
    return data


@pytest.mark.parametrize("path", VALID, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_damaged_documents_give_typed_errors(path: Path, tmp_path: Path) -> None:
    dice = random.Random(path.name)
    original = path.read_bytes()
    file = tmp_path / path.name
    for _ in range(CASES // len(VALID)):
        file.write_bytes(mutated(original, dice))
        start = time.process_time()
        with contextlib.suppress(FlashRLError):
            assert read_any(file).compute_digest().startswith("sha256:")
        assert time.process_time() - start < 1.0
