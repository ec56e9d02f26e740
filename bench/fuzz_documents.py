"""Damaged documents by the thousand: each must give a document or a typed error, quickly and in little memory.

    python bench/fuzz_documents.py --count 10000 --seed 0

Every case is a file of the corpus, valid or not, changed one to four times: flipped bytes, spliced text, shuffled,
repeated and dropped lines, exchanged keys and values, other numbers, long strings, deep nesting; or replaced by one of
the same kind with up to 400,000 faults. Fails, and keeps the
file, where reading raises anything but a FlashRLError, takes over a second of CPU time, or the process has ever held
more than 200 MB.
"""

import argparse
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flashrl_registry.documents import read_any
from flashrl_registry.errors import DocumentError, FlashRLError

CORPUS = Path(__file__).parents[1] / "tests" / "data" / "documents"
MAX_SECONDS, MAX_MB = 1.0, 200.0
MAX_CASE_BYTES = 16 << 20

SPLICES = [
    b"", b"\0", b"\xff", b"\t", b"\n", b": ", b"- ", b"&a ", b"*a", b"!!int ", b"[", b"]", b"{", b"}", b"'", b'"', b"#",
    b"null", b"true", b"[]", b"{}", b"\\u", b"\\ud83d", b"{0..9}", b"{9..0}", b"{0..249999}.{0..9}", b"re:(", b"=",
    b"re:((((a*)*)*)*)*b", b"sha256:", b"flashrl.plan/v1", b"flashrl.x/v9", b"flashrl.rules/v2", b"\xe2\x80\xa8",
    b"\xef\xbb\xbf", b"%YAML 1.1\n", b"---\n", b"<<: ", b"? ", b"x-note: ", b"|\n", b">-\n  ", b"\r",
]  # fmt: skip
NUMBERS = [
    b"-1", b"0", b"0.5", b"1e400", b"-1e-400", b"99999999999999999999", b"9" * 5000, b".nan", b"-.inf", b"0x1F",
    b"0o17", b"1_0", b"012", b"250001", b"9007199254740993", b"4.0",
]  # fmt: skip
Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, dice: random.Random) -> bytes:
    """Change single bits."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8) if changed else 0):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def splice(data: bytes, dice: random.Random) -> bytes:
    """Put something in place of a little."""
    start = dice.randrange(len(data) + 1)
    return data[:start] + dice.choice(SPLICES) + data[start + dice.choice((0, 0, 1, 4, 20)) :]


def truncate(data: bytes, dice: random.Random) -> bytes:
    """Stop somewhere."""
    return data[: dice.randrange(len(data) + 1)]


def lines_changed(data: bytes, dice: random.Random) -> bytes:
    """Shuffle, drop or repeat lines."""
    lines = data.split(b"\n")
    line, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(3)
    if kind == 0:
        part = lines[min(line, other) : max(line, other) + 1]
        dice.shuffle(part)
        lines[min(line, other) : max(line, other) + 1] = part
    else:
        times = 0 if kind == 1 else dice.choice((2, 2, 40, 2000))
        # What a case holds counts in this process's memory too.
        lines[line : line + 1] = [lines[line]] * min(times, MAX_CASE_BYTES // (len(lines[line]) + 1))
    return b"\n".join(lines)


def keys_exchanged(data: bytes, dice: random.Random) -> bytes:
    """Exchange two keys, or give one the value of another."""
    keys = list(re.finditer(rb'[\w-]+(?="?:)', data))
    if len(keys) < 2:
        return splice(data, dice)
    first, second = sorted(dice.sample(keys, 2), key=lambda match: match.start())
    one, two = (first[0], second[0]) if dice.random() < 0.5 else (second[0], second[0])
    return data[: first.start()] + two + data[first.end() : second.start()] + one + data[second.end() :]


def number_changed(data: bytes, dice: random.Random) -> bytes:
    """Put another number in place of one."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not numbers:
        return splice(data, dice)
    match = dice.choice(numbers)
    return data[: match.start()] + dice.choice(NUMBERS) + data[match.end() :]


def string_changed(data: bytes, dice: random.Random) -> bytes:
    """Put a long, an empty or a strange string, or a word of another place, in place of a word."""
    words = list(re.finditer(rb"[A-Za-z_./-]{3,}", data))
    if not words:
        return splice(data, dice)
    match = dice.choice(words)
    length = dice.choice((1, 600, 5000, 200_000, 1_100_000) if dice.random() < 0.2 else (1, 600))
    choices = [b"a." * (length // 2), b'""', b"*" * min(length, 600), b"{" * min(length, 600), dice.choice(words)[0]]
    return data[: match.start()] + dice.choice(choices) + data[match.end() :]


def nested(data: bytes, dice: random.Random) -> bytes:
    """Open many lists or maps."""
    start = dice.randrange(len(data) + 1)
    depth = dice.choice((5, 31, 33, 1000, 30_000))
    opening, closing = dice.choice(((b"[", b"]"), (b"{a: ", b"}"), (b"- ", b""), (b"? ", b""), (b'[{"a":', b"}]")))
    return data[:start] + opening * depth + (closing * depth if dice.random() < 0.5 else b"") + data[start:]


FAULTY = [
    b'{"a":1,"b":2}', b'{"names":1}', b'{"names":"a","shape":["1"],"dtype":"int8","role":"unchanged"}', b"1",
    b"null", b"[]", b'{"op":{"kind":"keep","rows":1}}', b'{"source":"s","kind":"norm","targets":[1,1,1,1,1,1,1,1]}',
    b'{"name":"","scheme":"x"}',
]  # fmt: skip


def many_faults(data: bytes, dice: random.Random) -> bytes:
    """A document of the same kind that is nothing but faults: in items of a list, in keys, at the top or below."""
    claim = re.search(rb"flashrl\.[a-z-]+/v1", data)
    head = b'{"schema_version":"' + (claim[0] if claim else b"flashrl.profile/v1") + b'",'
    item, count = dice.choice(FAULTY), dice.choice((50, 3000, 40_000, 400_000))
    count = min(count, MAX_CASE_BYTES // 4 // (len(item) + 1))
    names = b",".join(b'"k%d":1' % number for number in range(min(count, 100_000)))
    part = dice.choice((b"tensors", b"linears", b"smoothing", b"rules", b"entries", b"files", b"members", b"reference"))
    body = dice.choice((
        b'"%s":[%s]' % (part, b",".join([item] * count)), b'"%s":{%s}' % (part, names), names,
        b'"%s":[{"targets":[%s]}]' % (part, b",".join([item] * count)),
    ))  # fmt: skip
    return head + body + b"}"


MUTATIONS: tuple[Mutation, ...] = (
    flip, splice, splice, truncate, lines_changed, keys_exchanged, number_changed, string_changed, nested,
    many_faults,
)  # fmt: skip


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One to four changes."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        # Finding every key of a large case would take more memory than reading it may.
        data = (dice.choice(MUTATIONS) if len(data) < MAX_CASE_BYTES // 16 else splice)(data, dice)
    return data


def cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents; the same for the same seed."""
    dice = random.Random(seed)
    files = [path for path in sorted(CORPUS.glob("*/*/*")) if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    for _ in range(count):
        path = dice.choice(files)
        yield path.name, mutated(contents[path], dice)


@dataclass
class Outcome:
    """What came of all cases."""

    by_type: Counter[str] = field(default_factory=Counter)
    by_code: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    slowest: str = ""
    largest_bytes: int = 0
    wrong: list[str] = field(default_factory=list)


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Read every case from a file in ``folder``; files that give a wrong outcome stay there."""
    outcome = Outcome()
    for number, (name, data) in enumerate(cases(count, seed)):
        file = folder / f"{number}-{name}"
        file.write_bytes(data)
        start = time.process_time()
        try:
            read_any(file).compute_digest()
            kind, codes = "valid", {"valid"}
        except FlashRLError as exc:
            kind = type(exc).__name__
            codes = {finding.code for finding in exc.findings} if isinstance(exc, DocumentError) else {exc.code}
        except Exception as exc:  # noqa: BLE001 - what the run looks for
            kind, codes = f"NOT TYPED: {type(exc).__name__}", set()
        seconds = time.process_time() - start
        outcome.by_type[kind] += 1
        outcome.by_code.update(codes)
        outcome.largest_bytes = max(outcome.largest_bytes, len(data))
        if seconds > outcome.slowest_seconds:
            outcome.slowest_seconds, outcome.slowest = seconds, f"{file.name} ({len(data)} bytes, {kind})"
        if seconds > MAX_SECONDS or kind.startswith("NOT"):
            outcome.wrong.append(f"{file}: {kind}, {seconds:.2f} s")
        else:
            file.unlink()
    return outcome


def peak_mb() -> float:
    """Most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-documents-"))
    idle, start = peak_mb(), time.process_time()
    outcome = run(options.count, options.seed, folder)
    print(f"{options.count} documents, seed {options.seed}, {time.process_time() - start:.1f} s CPU")
    for title, counter in (("outcome", outcome.by_type), ("findings, once per document", outcome.by_code)):
        print(f"{title}:")
        for name, number in counter.most_common():
            print(f"  {number:6} {name}")
    print(f"largest {outcome.largest_bytes / 1e6:.1f} MB")
    print(f"slowest {outcome.slowest_seconds * 1000:.0f} ms: {outcome.slowest}")
    print(f"peak    {peak_mb():.0f} MB, {idle:.0f} MB of it before the first document")
    for line in outcome.wrong:
        print(f"WRONG {line}")
    return 1 if outcome.wrong or peak_mb() > MAX_MB else 0


if __name__ == "__main__":
    sys.exit(main())
