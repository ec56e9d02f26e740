"""Whatever the mode and whichever way weights arrive, the engine is what a fresh engine on them would be, bit for bit.

``docs/matrix.md`` shows the cells that are tested here; ``make matrix`` rewrites it after they have passed.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matrix
import matrix_table
import pytest
import tiny as make
import tiny_pair

pytestmark = pytest.mark.vllm

BIN = Path(sys.executable).parent
DOCS = Path(__file__).parents[3] / "docs" / "matrix.md"
RELEASES = ("0.32.0", "0.27.1")
LINEARS = "- {name: linears, scheme: int8, targets: ['*_proj']}\n"
REST = "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n"
RULES = {
    "int8_frozen": f"update: {{scales: frozen}}\nrules:\n{LINEARS}{REST}",
    "mixed": "rules:\n- {name: middle, scheme: int8, targets: ['model.layers.1.*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['model.layers.1.*_proj']}\n",
    "staged": f"update: {{mode: staged}}\nrules:\n{LINEARS}{REST}",
    "moe": "rules:\n- {name: attention, scheme: int8, targets: ['*.self_attn.*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*.self_attn.*_proj']}\n",
}
PROFILED = ("int8_smoothed", "int8_frozen", "int8_prune")


def command(name: str, *args: object) -> None:
    subprocess.run([str(BIN / name), *map(str, args)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def modes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By mode: the plan, and the two checkpoints that weights come from."""
    work = tmp_path_factory.mktemp("matrix")
    dense = [tiny_pair.deaden(make.write(work / f"dense{seed}", seed, layers=3)) for seed in (1, 2)]
    experts = [make.write(work / f"experts{seed}", seed, moe=True) for seed in (1, 2)]
    quantized = tiny_pair.write_w8a8(dense[0], work / "w8a8")
    command("flashrl", "profile", "-m", dense[0], "-qm", quantized, "-o", work / "profile", "--fn", "int8")
    out = {}
    for mode in matrix.MODES:
        models = experts if mode == "moe" else dense
        config = mode
        if mode in RULES or mode in PROFILED:
            config = str(work / f"plan-{mode}")
            how = ["--scheme", mode.removesuffix("_smoothed")]
            if mode in RULES:
                (work / f"{mode}.yaml").write_text("schema_version: flashrl.rules/v1\n" + RULES[mode])
                how = ["--rules", str(work / f"{mode}.yaml")]
            profile = ["--profile", work / "profile"] if mode in PROFILED else []
            command("flashrl-registry", "compile", "-m", models[0], *how, *profile, "-o", config)
        out[mode] = [config, *map(str, models)]
    return out


@pytest.fixture(scope="module")
def ran(modes, other_release: Path, run_shared: Callable[..., Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Results by (release, kind). Two processes at a time, as there are two releases."""
    cells = [(release, kind) for kind in matrix.KINDS for release in RELEASES]

    def run(cell: tuple[str, str]) -> dict[str, Any]:
        release, kind = cell
        done = run_shared(
            "matrix.py", "run", in_process=kind == "in_process",
            pythonpath=other_release if release == "0.27.1" else None,
            modes=modes, with_fresh=kind == "in_process",
        )  # fmt: skip
        assert done.returncode == 0, f"{release}, {kind}:\n{done.log[-4000:]}"
        result: dict[str, Any] = done.result
        return result

    with ThreadPoolExecutor(int(os.environ.get("FLASHRL_TEST_JOBS", "2"))) as pool:
        return dict(zip(cells, pool.map(run, cells), strict=True))


def holds(observed: dict[str, Any], reference: dict[str, Any]) -> bool:
    """Same bytes, same tokens, and every tensor that can be read back is what the plan made of what was sent."""
    return (
        observed["resident"] == reference["resident"]
        and observed["tokens"] == reference["tokens"]
        and all(report["compared"] == report["equal"] > 0 for report in observed["verify"])
    )


def cells(ran: dict[tuple[str, str], dict[str, Any]], mode: str, release: str, kind: str) -> dict[str, bool]:
    """Whether each route holds; the references come from engines that were started on their checkpoints."""
    result, fresh = ran[release, kind][mode], ran[release, "in_process"][mode]
    references = fresh["fresh"], fresh["start"]
    return {route: holds(result[route], references[index % 2]) for index, route in enumerate(matrix.ROUTES)}


@pytest.mark.parametrize("kind", matrix.KINDS)
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("mode", matrix.MODES)
def test_any_arrival_equals_a_fresh_engine(ran, mode: str, release: str, kind: str) -> None:
    result, reference = ran[release, kind], ran[release, "in_process"][mode]
    assert result["version"].startswith(release)
    assert result[mode]["start"]["status"]["layers"] == matrix.LAYERS.get(mode, {"int8": 12})
    assert reference["start"]["tokens"] != reference["fresh"]["tokens"], "the update must be visible"
    assert holds(result[mode]["start"], reference["start"])
    assert cells(ran, mode, release, kind) == dict.fromkeys(matrix.ROUTES, True)


def test_the_documented_matrix_is_the_tested_one(ran) -> None:
    found = {
        (mode, release, kind): cells(ran, mode, release, kind)
        for mode in matrix.MODES
        for release in RELEASES
        for kind in matrix.KINDS
    }
    text = matrix_table.render(found)
    if os.environ.get("FLASHRL_WRITE_DOCS") == "1":
        DOCS.write_text(text)
    assert DOCS.read_text() == text, "run `make matrix`"
