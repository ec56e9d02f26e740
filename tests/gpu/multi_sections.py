"""What ``test_multi_gpu.py`` runs, and what it concludes: for each section its programs and its checks."""

import shutil
from collections.abc import Iterator

import serving
import tiny
from multi_models import Models
from multi_programs import Job, Machine, Result

SECTIONS = ("tp", "killed", "dp", "serve", "transfer", "ray")
ON_CPU = ("tp", "killed", "ray")
WHOLE = ("dp", "serve")
"""Sections whose checks need all of their programs; those of the others need the programs of one label."""
ROUTES = ("folder", "one_by_one", "buckets", "announced", "transfer")  # multi_scenarios.py needs vLLM to be read
REFUSED = {
    ("Qwen3-30B-A3B", "fp8_block", 4): "4 workers cut the 768 rows of an expert into pieces that blocks do not divide"
}
"""What a plan refuses, so that there is nothing to run: kind, plan, workers."""
ANSWER_SECONDS = 60
"""How long after a worker's death the engine may take to say so."""
Check = tuple[str, bool, str]


def tp_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    for workers in (2, 4):
        if workers > max(len(machine.gpus), 2):
            continue
        place = 0
        for kind, plans in reversed(models.plans.items()):  # those that take longest first
            for name, config in plans.items():
                if reason := REFUSED.get((kind, name, workers)):
                    print(f"tp {workers} {kind} {name}: no such engine: {reason}", flush=True)
                    continue
                for program in ("shared", "fresh"):
                    args = models.args(kind, workers=workers)
                    if program == "fresh":
                        args["start"] = args["updated"]
                    sets = machine.sets(workers)
                    yield Job(f"tp {workers} {kind} {name}", program, config, args, sets[place % len(sets)])
                    place += 1


def tp_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result, fresh = found["shared"], found["fresh"]
    yield f"{label} ran", bool(result and fresh), ""
    if not (result and fresh):
        return
    start = result["start"]
    held = start["resident"]
    yield f"{label}: the update is visible", start["tokens"] != fresh["tokens"], ""
    yield f"{label}: each worker holds a part of its own", all(held[0] != other for other in held[1:]), ""
    digests = {(report["plan_digest"], report["resolved_digest"]) for report in (*start["workers"], *fresh["workers"])}
    yield f"{label}: one resolution", len(digests) == 1, f"layers {start['status']['layers']}"
    yield f"{label}: the start is proven", proven(start), said(start)
    for route in ROUTES:
        there, back = result[route], result[f"{route}_back"]
        equal = same(there, fresh) and same(back, start)
        detail = f"{said(there)}, {there['seconds']:.2f} s"
        yield f"{label} {route}", equal and proven(there) and proven(back), detail


def same(left: Result, right: Result) -> bool:
    return bool(left["resident"] == right["resident"] and left["tokens"] == right["tokens"])


def proven(observed: Result) -> bool:
    """Every worker compared every tensor with what the plan made of what was sent."""
    return all(
        report["compared"] == report["equal"] > 0 and not report["different"] and not report["not_compared"]
        for report in observed["verify"]
    )


def said(observed: Result) -> str:
    reports = [f"{report['equal']} of {report['compared']}" for report in observed["verify"]]
    return f"proven by each worker: {', '.join(reports)}"


def killed_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    ways = {"transfer": "int8 smoothed", "bare": "int8", "announced": "int8" if models.cpu else "fp8_channel"}
    for place, (way, plan) in enumerate(ways.items()):
        kind = "dense" if plan in models.plans["dense"] else "experts"
        # Asked at once, before the death is noticed, and asked later.
        args = models.args(kind, workers=2, way=way, pause_seconds=10 * place)
        sets = machine.sets(2)
        yield Job(f"killed {way} {plan}", "killed", models.plans[kind][plan], args, sets[place % len(sets)])


def killed_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result = found["killed"]
    yield f"{label} ran", bool(result), ""
    if result:
        refused = result["half"].startswith("NotServableError")
        yield f"{label}: half an update is refused", refused, result["half"][:200]
        refused = result["generate"].startswith(("NotServableError", "EngineDeadError"))
        yield f"{label}: nothing is served after a worker died", refused, result["generate"][:200]
        seconds = result["seconds"]
        yield f"{label}: the engine says so in time", seconds < ANSWER_SECONDS, f"{seconds:.1f} s"


def dp_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    hybrid = str(models.work / "hybrid.yaml")
    yield Job("dp", "replicas", hybrid, models.args("dense", replicas=2), machine.sets(2)[0])
    ones = machine.sets(1)
    for place, (member, config) in enumerate((("eight", "int8"), ("plain", "bf16"))):
        for name in ("start", "updated"):
            args = models.args("dense", replicas=1)
            args["start"] = args[name]
            yield Job(f"dp alone {member} {name}", "replicas", config, args, ones[place % len(ones)])


def dp_checks(found: dict[str, Result]) -> Iterator[Check]:
    both = found.pop("dp")
    yield "dp ran", bool(both and all(found.values())), ""
    if not (both and all(found.values())):
        return
    for moment, checkpoint in (("start", "start"), ("updated", "updated"), ("healed", "updated")):
        observed = both[moment]
        places = [(worker["replica"], worker["member"]) for worker in observed["workers"]]
        yield f"dp {moment}: each replica says its member", places == [(0, "eight"), (1, "plain")], str(places)
        yield f"dp {moment}: proven by both", proven(observed) and len(observed["verify"]) == 2, said(observed)
        for replica, member in enumerate(("eight", "plain")):
            alone = found[f"dp alone {member} {checkpoint}"]["start"]
            equal = observed["tokens_of"][replica] == alone["tokens"]
            equal = equal and observed["resident"][replica] == alone["resident"][0]
            yield f"dp {moment}: {member} equals an engine of its own plan", equal, ""
            digest = observed["workers"][replica]["plan_digest"]
            yield f"dp {moment}: {member} has its plan's digest", digest == alone["status"]["plan_digest"], digest
    refused = all(text.startswith("NotServableError") for text in both["refused"])
    yield "dp: half an update is refused by both", refused and "returned" not in both["incomplete"], ""


def serve_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    args = models.args("dense")
    for key, folder in args.items():
        args[key] = shutil.copytree(folder, models.work / f"served-{key}")
        serving.add_tokenizer(args[key], tiny.VOCAB)
    args = {key: str(folder) for key, folder in args.items()} | {"work": str(models.work)}
    yield Job("serve", "served", str(models.work / "hybrid.yaml"), args, machine.sets(2)[0])
    for job in list(dp_jobs(models, machine))[1:]:
        yield Job(job.label.replace("dp", "serve"), job.program, job.config, job.args, job.gpus)


def serve_checks(found: dict[str, Result]) -> Iterator[Check]:
    server = found.pop("serve")
    yield "serve ran", bool(server and all(found.values())), ""
    if not (server and all(found.values())):
        return
    for moment in ("start", "updated"):
        observed = server[moment]
        places = [(worker["replica"], worker["member"]) for worker in observed["workers"]]
        yield f"serve {moment}: each replica says its member", places == [(0, "eight"), (1, "plain")], str(places)
        yield f"serve {moment}: proven by both", proven(observed) and len(observed["verify"]) == 2, said(observed)
        for replica, member in enumerate(("eight", "plain")):
            alone = found[f"serve alone {member} {moment}"]["start"]
            answers = [serving.text_of(tokens) for tokens in alone["tokens"]]
            yield f"serve {moment}: {member} answers as AsyncLLM", observed["texts_of"][replica] == answers, ""
            digest = observed["workers"][replica]["plan_digest"]
            yield f"serve {moment}: {member} has its plan's digest", digest == alone["status"]["plan_digest"], digest
    yield "serve: half an update is an error", server["incomplete"] == 500, str(server["incomplete"])
    codes = [status for status, _ in server["refused"]]
    yield "serve: 503 by both while the weights are not whole", codes == [503, 503], str(server["refused"])[:300]


def transfer_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    for workers in (1, 2):
        if workers >= len(machine.gpus):
            continue
        gpus, trainer = ",".join(machine.gpus[:workers]), machine.gpus[workers]
        for name in ("int8 smoothed", "int8", "fp8_channel", "fp8_block"):
            args = models.args("dense", workers=workers, trainer_gpu=trainer)
            label = f"transfer to {workers} {name}"
            yield Job(label, "transfer", models.plans["dense"][name], args, gpus)
            yield Job(label, "fresh", models.plans["dense"][name], args | {"start": args["updated"]}, gpus)


def transfer_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result, fresh = found["transfer"], found["fresh"]
    yield f"{label} ran", bool(result and fresh), ""
    if not (result and fresh):
        return
    yield f"{label}: the update is visible", result["start"]["tokens"] != fresh["tokens"], ""
    for way in ("single", "packed", "packed_small"):
        there, back = result[way], result[f"{way}_back"]
        equal = same(there, fresh) and same(back, result["start"])
        detail = f"{said(there)}, {there['seconds']:.2f} s"
        yield f"{label} {way}", equal and proven(there) and proven(back), detail


def ray_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    gpus = machine.sets(2)[0]
    for name in ("int8",) if models.cpu else ("int8 smoothed", "fp8_channel"):
        config = models.plans["dense"][name]
        yield Job(f"ray {name}", "placed", config, models.args("dense"), gpus)
        args = models.args("dense", workers=1)
        yield Job(f"ray {name}", "fresh", config, args | {"start": args["updated"]}, machine.sets(1)[0])


def ray_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result, fresh = found["placed"], found["fresh"]
    yield f"{label} ran", bool(result and fresh), ""
    if not (result and fresh):
        return
    start, updated = result["start"], result["updated"]
    places = result["gpus"]
    yield f"{label}: each engine has a GPU of its own", not any(places) or places[0] != places[1], str(places)
    reports = [engine["status"] for engine in (*start, *updated)] + [fresh["status"]]
    digests = {(report["plan_digest"], report["resolved_digest"]) for report in reports}
    yield f"{label}: one resolution, the same digest everywhere", len(digests) == 1, str(sorted(digests))
    yield f"{label}: the update is visible", start[0]["tokens"] != updated[0]["tokens"], ""
    for place, engine in enumerate(updated):
        yield f"{label}: engine {place} equals a fresh one", same(engine, fresh) and proven(engine), said(engine)


JOBS = {
    "tp": tp_jobs, "killed": killed_jobs, "dp": dp_jobs, "serve": serve_jobs, "transfer": transfer_jobs,
    "ray": ray_jobs,
}  # fmt: skip
CHECKS = {"tp": tp_checks, "killed": killed_checks, "transfer": transfer_checks, "ray": ray_checks}


def checks_of(section: str, found: dict[str, dict[str, Result]]) -> Iterator[Check]:
    """From what a section's programs wrote, by label and program."""
    if section in WHOLE:
        one_of_each = {label: result for label, results in found.items() for result in results.values()}
        yield from (dp_checks if section == "dp" else serve_checks)(one_of_each)
        return
    for label, results in found.items():
        yield from CHECKS[section](label, results)
