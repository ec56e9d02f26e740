"""Every mode on a GPU: after each way of updating, bit-equal to a fresh engine and proven, or exit code 1.

    python tests/gpu/run.py [schemes] [experts] [graphs] [faults] [sleep] [staged] [--table FILE]

Needs vLLM, this project installed, and one Hopper GPU. Nothing here runs in CI. Each scenario is a process of its own
and the same program that the CPU tests run; see tests/integration/vllm_cpu/scenarios.py. Several run side by side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

CPU_TESTS = Path(__file__).parents[1] / "integration" / "vllm_cpu"
sys.path.insert(0, str(CPU_TESTS))
import tiny  # noqa: E402 - shared with scenarios that run as scripts

ROUTES = ("folder", "iterator", "one_by_one", "buckets", "announced", "fused", "float32", "reused", "transfer")
SCHEMES = ("bf16", "fp8", "fp8_tensor", "fp8_channel", "fp8_block", "int8")
SIDE_BY_SIDE = 5
SECTIONS = ("graphs", "faults", "sleep", "schemes", "experts", "staged")  # the slow ones first
RULES = {
    "mixed": "rules:\n"
    "- {name: first, scheme: bf16, targets: ['model.layers.0.*']}\n"
    "- {name: attention, scheme: int8, targets: ['*.self_attn.*'], ignore: ['model.layers.0.*']}\n"
    "- {name: mlp, scheme: fp8_channel, targets: ['*.mlp.*'], ignore: ['model.layers.0.*']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['model.layers.*']}\n"
    "- {name: norms, scheme: bf16, targets: ['model.layers.1.*layernorm']}\n",
    "staged": "update: {mode: staged}\nrules:\n"
    "- {name: linears, scheme: fp8_channel, targets: ['*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n",
    "fp8 KV cache": "engine: {kv_cache_dtype: fp8}\nrules:\n"
    "- {name: linears, scheme: fp8_channel, targets: ['*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n",
}
Check = tuple[str, bool, str]
Job = partial[Iterator[Check]]


def compiled(work: Path, name: str, model: str) -> str:
    """A plan folder for one of RULES."""
    rules, plan = work / f"{name}.yaml", work / f"plan {name}"
    rules.write_text("schema_version: flashrl.rules/v1\n" + RULES[name])
    command = [sys.executable, "-m", "flashrl_cli", "compile", "-m", model, "--rules", str(rules), "-o", str(plan)]
    subprocess.run(command, check=True, capture_output=True)
    return str(plan)


def scenario(work: Path, label: str, name: str, config: str, *, graphs: bool, **args: Any) -> dict[str, Any]:
    """Run one scenario; an empty result where it failed, with the end of its log printed."""
    stem = label.replace(" ", "_")
    given, out = work / f"{stem}-in.json", work / f"{stem}-out.json"
    given.write_text(json.dumps(args))
    environ = {
        **os.environ,
        "FLASHRL_CONFIG": config,
        "SCENARIO_EAGER": "0" if graphs else "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CACHE_ROOT": str(work / f"{stem}-cache"),
    }
    began = time.perf_counter()
    command = [sys.executable, str(CPU_TESTS / "scenarios.py"), name, str(given), str(out)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=500)
    print(f"{label}: exit {done.returncode}, {time.perf_counter() - began:.0f} s", flush=True)
    if done.returncode != 0:
        print("\n".join((done.stdout + done.stderr).splitlines()[-12:]), flush=True)
        return {}
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def without_attention_scales(observed: dict[str, Any]) -> dict[str, Any]:
    """vLLM 0.25.1 does not restore these after sleep level 2; with an unquantized KV cache nothing reads them."""
    names = ("._k_scale", "._v_scale", "._q_scale")
    kept = [{k: v for k, v in rank.items() if not k.endswith(names)} for rank in observed["resident"]]
    return {**observed, "resident": kept}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return bool(left["resident"] == right["resident"] and left["tokens"] == right["tokens"])


def proven(observed: dict[str, Any]) -> bool:
    return all(report["compared"] == report["equal"] > 0 for report in observed["verify"])


def routes(work: Path, label: str, config: str, *, graphs: bool, **pairs: list[str]) -> Iterator[Check]:
    """Go to another checkpoint and back by every route."""
    result = scenario(work, label, "every_route", config, graphs=graphs, pairs=pairs)
    for pair in pairs:
        if not result:
            yield f"{label} {pair}", False, ""
            continue
        found = result[pair]
        visible = found["start"]["tokens"] != found["fresh"]["tokens"]
        yield f"{label} {pair}: the update is visible", visible, ""
        for route in ROUTES:
            equal = same(found[route], found["fresh"]) and same(found[f"{route}_back"], found["start"])
            report = found[route]["verify"][0]
            detail = f"{report['equal']} of {report['compared']} proven, layers {found[route]['status']['layers']}"
            yield f"{label} {pair} {route}", equal and proven(found[route]), detail


def faults(work: Path, config: str, models: list[str]) -> Iterator[Check]:
    first, second = models
    result = scenario(work, f"faults {config}", "faults", config, graphs=False, model=first, updated=second)
    yield f"faults {config} ran", bool(result), ""
    for name, outcome in result.items():
        if name not in ("start", "fresh"):
            refused = "NotServableError" in (outcome["generate_error"] or "")
            yield f"faults {config} {name}", refused and same(outcome["healed"], result["fresh"]), ""


def sleep_level_2(work: Path, config: str, models: list[str]) -> Iterator[Check]:
    label, (first, second) = f"sleep level 2 {config}", models
    result = scenario(work, label, "sleep_level_2", config, graphs=False, model=first, updated=second)
    asleep = bool(result) and "NotServableError" in str(result["awake"])
    yield label, asleep and same(*(without_attention_scales(result[key]) for key in ("updated", "fresh"))), ""


def sleep_level_1(work: Path, config: str, models: list[str]) -> Iterator[Check]:
    label, (first, second) = f"sleep level 1 {config}", models
    result = scenario(work, label, "sleep_level_1", config, graphs=False, model=first, updated=second)
    kept = bool(result) and same(result["awake"], result["start"])
    yield label, kept and same(result["updated"], result["fresh"]) and proven(result["updated"]), ""


def staged(work: Path, _: str, models: list[str]) -> Iterator[Check]:
    first, second = models
    plan = compiled(work, "staged", first)
    result = scenario(work, "staged fp8_channel", "staged", plan, graphs=False, model=first, updated=second)
    yield "staged ran", bool(result), ""
    if result:
        yield "staged: old weights serve half way", same(result["half"], result["start"]), ""
        for name in result.keys() - {"start", "half", "fresh"}:
            reference = result["start" if name.endswith("_back") else "fresh"]
            yield f"staged {name}", same(result[name], reference), ""


def jobs_of(section: str, work: Path, models: dict[str, list[str]]) -> list[Job]:
    """What a section runs, each in a process of its own."""
    untied = models["untied"]
    dense = {name: models[name] for name in ("tied", "untied")}
    moe, one = {"moe": models["moe"]}, {"untied": untied}
    if section == "schemes":
        return [
            *(partial(routes, work, scheme, scheme, graphs=False, **dense) for scheme in SCHEMES),
            *(
                partial(routes, work, name, compiled(work, name, untied[0]), graphs=False, **one)
                for name in ("mixed", "fp8 KV cache")
            ),
        ]
    if section == "experts":
        schemes = [scheme for scheme in SCHEMES if scheme != "fp8_tensor"]
        return [partial(routes, work, f"experts {scheme}", scheme, graphs=False, **moe) for scheme in schemes]
    if section == "graphs":
        schemes = ["bf16", "fp8_channel", "fp8_block", "int8"]  # vLLM's own fp8 is refused for experts there
        return [
            *(partial(routes, work, f"graphs {scheme}", scheme, graphs=True, **one) for scheme in SCHEMES),
            *(partial(routes, work, f"graphs experts {scheme}", scheme, graphs=True, **moe) for scheme in schemes),
        ]
    if section == "faults":
        return [partial(faults, work, config, untied) for config in ("int8", "fp8_channel", "fp8_block")]
    if section == "sleep":
        configs = ("int8", "fp8_channel", "fp8")
        return [partial(level, work, config, untied) for level in (sleep_level_2, sleep_level_1) for config in configs]
    return [partial(staged, work, "", untied)]


def run(sections: Sequence[str], jobs: int, match: str = "") -> dict[str, list[Check]]:
    """The checks of some sections; the slow ones start first."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        work = Path(folder)
        models = {
            name: [str(tiny.write(work / f"{name}{seed}", seed, wide=True, **kind)) for seed in (1, 2)]
            for name, kind in (("tied", {"tied": True}), ("untied", {}), ("moe", {"moe": True}))
        }
        futures = {
            section: [
                pool.submit(lambda job: list(job()), job)
                for job in jobs_of(section, work, models)
                if any(part in str(job.args[1:]) for part in match.split(","))
            ]
            for section in sorted(sections, key=SECTIONS.index)
        }
        return {section: [check for future in made for check in future.result()] for section, made in futures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=[], help=" ".join(SECTIONS))
    parser.add_argument("--match", default="", help="only scenarios whose label holds this, of several with commas")
    parser.add_argument("--jobs", type=int, default=SIDE_BY_SIDE, help="scenarios side by side")
    parser.add_argument("--table", type=Path, help="write the checks as JSON")
    given = parser.parse_args()
    checks = [check for found in run(given.sections or SECTIONS, given.jobs, given.match).values() for check in found]
    for name, ok, detail in checks:
        if not ok:
            print(f"FAILED {name} {detail}")
    failed = sum(not ok for _, ok, _ in checks)
    print(f"{len(checks) - failed} passed, {failed} failed")
    if given.table:
        write_table(given.table, checks)
    return 1 if failed else 0


def write_table(path: Path, checks: Sequence[Check]) -> None:
    """The checks as JSON, for ``table.py``."""
    path.write_text(json.dumps([{"check": n, "passed": ok, "detail": d} for n, ok, d in checks], indent=1))


if __name__ == "__main__":
    sys.exit(main())
