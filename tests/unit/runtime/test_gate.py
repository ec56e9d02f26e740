"""The file by which workers tell the front end whether they serve."""

from flashrl_registry.runtime.gate import Gate, create_gate


def test_any_refusing_worker_closes_the_gate_and_its_reason_is_read() -> None:
    path = create_gate()
    try:
        front, first, second = Gate(path), Gate(path), Gate(path)
        assert front.reason() is None
        second.set(1, refusing=True, reason="tensor x is missing")
        assert front.reason() == "tensor x is missing"
        first.set(0, refusing=False)
        assert front.reason() == "tensor x is missing"
        second.set(1, refusing=False)
        assert front.reason() is None
    finally:
        path.unlink()


def test_updates_differ_after_each_update_of_any_worker() -> None:
    path = create_gate()
    try:
        front, worker = Gate(path), Gate(path)
        seen = {front.updates()}
        for rank in (0, 1, 1):
            worker.count_update(rank)
            seen.add(front.updates())
        assert len(seen) == 4
        assert front.reason() is None
    finally:
        path.unlink()


def test_a_long_reason_is_cut_not_written_past_the_file() -> None:
    path = create_gate()
    try:
        gate = Gate(path)
        size = path.stat().st_size
        gate.set(5000, refusing=True, reason="x" * 100_000)
        assert set(gate.reason() or "") == {"x"}
        assert path.stat().st_size == size
    finally:
        path.unlink()


def test_so_they_do_after_any_number_of_updates() -> None:
    path = create_gate()
    try:
        front, worker = Gate(path), Gate(path)
        before = front.updates()
        for _ in range(256):
            worker.count_update(3)
        assert front.updates() != before
    finally:
        path.unlink()
