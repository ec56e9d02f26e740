"""Training goes on for days: neither memory nor places of parameters change with the number of updates."""

import pytest

pytestmark = pytest.mark.vllm

ALLOWED_BYTES = 2 << 20


@pytest.mark.parametrize(("config", "count"), [("int8", 1000), ("bf16", 200)])
def test_a_thousand_updates_leave_memory_and_pointers_where_they_were(run_shared, tiny, config, count) -> None:
    ran = run_shared("soak.py", "soak", config, models=[str(tiny(1)), str(tiny(2))], count=count)
    assert ran.returncode == 0, ran.log[-3000:]
    result = ran.result
    resident = [round(size / 2**20, 1) for size in result["resident"]]
    print(f"{config}: MiB after each tenth of {count} updates: {resident}; first, median, slowest: {result['seconds']}")
    assert result["moved"] == [], "CUDA graphs and kernels keep these addresses"
    # The first tenth warms up allocators.
    assert result["resident"][-1] - result["resident"][0] < ALLOWED_BYTES, resident
    assert result["last"]["status"]["weight_version"] == count
    assert result["last"]["resident"] == result["fresh"]["resident"]
    assert result["last"]["tokens"] == result["fresh"]["tokens"]
