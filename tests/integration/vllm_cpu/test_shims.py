"""Each work-around of ``compat.py`` is needed by this vLLM: without it the outcome is wrong, with it right.

A test here that fails because nothing is wrong without a work-around says that vLLM has cured the fault: remove the
work-around when the oldest release that is supported has the cure.
"""

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tiny, run_shared, other_release) -> dict[str, dict[str, dict[str, object]]]:
    """Results by release, then by work-around."""
    models = {
        name: [str(tiny(seed, **kind)) for seed in (1, 2)]
        for name, kind in (("dense", {}), ("tied", {"tied": True}), ("experts", {"moe": True}))
    }
    out = {}
    for release, folder in (("0.32.0", None), ("0.27.1", other_release)):
        done = run_shared("shim_scenarios.py", "shims", "bf16", pythonpath=folder, **models)
        assert done.returncode == 0, done.log[-3000:]
        out[release] = done.result
    return out


@pytest.mark.parametrize(
    ("shim", "releases"),
    [
        ("keep_onednn_scales_alive", ("0.27.1", "0.32.0")),
        ("refresh_tied_head", ("0.27.1", "0.32.0")),
        ("remember_emptied", ("0.27.1", "0.32.0")),
        ("repack_cpu_experts", ("0.32.0",)),
    ],
)
def test_without_it_the_outcome_is_wrong_and_with_it_right(ran, shim: str, releases: tuple[str, ...]) -> None:
    for release, result in ran.items():
        assert result[shim]["with"]["equal"], f"{release}: wrong in spite of the work-around"
        assert result[shim]["without"]["equal"] is (release not in releases), (
            f"{release}: vLLM has changed; see when {shim} can go"
        )
