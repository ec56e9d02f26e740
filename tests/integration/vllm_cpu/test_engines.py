"""Every kind of engine runs the plan, updates to what a fresh one would be, refuses half an update, and heals."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import serving
import tiny as make
import tiny_pair
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.vllm

HERE, BIN = Path(__file__).parent, Path(sys.executable).parent
PATHS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
MISSING = "model.layers.1.mlp.down_proj.weight"
TENSORS = 21
# Two processes that compute share two cores; vLLM would bind both to the same one.
APART = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}


def command(name: str, *args: object) -> None:
    subprocess.run([str(BIN / name), *map(str, args)], check=True, capture_output=True)


class Job:
    """Two checkpoints, a third that lacks a tensor, and a plan with the smoothing of a profile."""

    def __init__(self, work: Path) -> None:
        self.first, self.second = make.write(work / "first", 1), make.write(work / "second", 2)
        for folder in (self.first, self.second):
            serving.add_tokenizer(folder, make.VOCAB)
        self.lacking = work / "lacking"
        shutil.copytree(self.second, self.lacking)
        tensors = load_file(self.lacking / "model.safetensors")
        del tensors[MISSING]
        save_file(tensors, self.lacking / "model.safetensors", metadata={"format": "pt"})
        quantized = tiny_pair.write_w8a8(self.first, work / "w8a8")
        command("flashrl", "profile", "-m", self.first, "-qm", quantized, "-o", work / "profile", "--fn", "int8")
        self.plan = work / "plan"
        command("flashrl-registry", "compile", "-m", self.first, "--profile", work / "profile", "-o", self.plan)
        self.hybrid = work / "hybrid.yaml"
        self.hybrid.write_text(
            "schema_version: flashrl.hybrid/v1\nmembers:\n- {name: eight, plan: ./plan}\n- {name: plain, plan: bf16}\n"
        )

    @property
    def paths(self) -> dict[str, Path]:
        return {"model": self.first, "updated": self.second, "bad": self.lacking}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def alone(job: Job, run_shared: Any) -> dict[str, dict[str, Any]]:
    """What fresh engines in one process say, by plan and checkpoint."""
    out: dict[str, dict[str, Any]] = {}
    for plan, config in (("eight", str(job.plan)), ("plain", "bf16")):
        ran = run_shared("engines.py", "alone", config, first=job.first, second=job.second)
        assert ran.returncode == 0, ran.log[-3000:]
        out |= {f"{plan} {name}": observed for name, observed in ran.result.items()}
    return out


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["resident"] == other["resident"] and one["tokens"] == other["tokens"])


def proven(observed: dict[str, Any], workers: int) -> bool:
    reports = observed["verify"]
    return len(reports) == workers and all(
        report["compared"] == report["equal"] == TENSORS and not report["different"] and not report["not_compared"]
        for report in reports
    )


def test_two_workers_that_share_a_model_update_refuse_and_heal(run_scenario, job: Job) -> None:
    ran = run_scenario("two_workers", str(job.plan), script="engines.py", in_process=False, env=APART, **job.paths)
    dies = run_scenario("worker_dies", str(job.plan), script="engines.py", in_process=False, env=APART, **job.paths)
    assert ran.returncode == 0, ran.log[-3000:]
    assert dies.returncode == 0, dies.log[-3000:]
    start, fresh = ran.result["start"], dies.result["fresh"]
    assert start["status"]["layers"] == {"int8": 8}
    assert start["status"]["tensors"] == {"int8": 14, "keep": 3, "rescale": 4}
    assert start["resident"][0] != start["resident"][1], "each worker holds its own half"
    assert len({report["resolved_digest"] for report in start["workers"]}) == 1
    assert start["tokens"] != fresh["tokens"], "the update must be visible, or the test shows nothing"
    for route in ("folder", "one_by_one", "buckets", "transfer"):
        assert same(ran.result[route], fresh), f"{route}: differs from a fresh engine with two workers"
        assert proven(ran.result[route], 2), ran.result[route]["verify"]
        assert same(ran.result[f"{route}_back"], start), f"{route}: does not restore the first weights"
    assert MISSING in ran.result["incomplete"]
    assert "NotServableError" in ran.result["incomplete_generate"]
    assert same(ran.result["healed"], fresh), "both workers, by the first complete update"
    killed = dies.result["killed"]
    assert "returned" not in killed["finish"]
    assert killed["generate"].startswith(("NotServableError", "EngineDeadError")), killed["generate"]


def test_async_engine_updates_refuses_without_dying_and_heals(run_scenario, job: Job, alone) -> None:
    ran = run_scenario("one_replica", str(job.plan), script="engines.py", in_process=False, **job.paths)
    assert ran.returncode == 0, ran.log[-3000:]
    result, fresh = ran.result, alone["eight second"]
    assert same(result["start"], alone["eight first"])
    assert result["sync_status"].endswith("await flashrl_registry.status_async(engine)")
    assert result["sync_verify"].endswith("await flashrl_registry.verify_async(engine)")
    for name in ("updated", "healed", "healed_again"):
        assert same(result[name], fresh), name
        assert proven(result[name], 1)
    for name in ("incomplete", "announced_incomplete"):
        assert MISSING in result[name]
    for name in ("incomplete_generate", "announced_generate"):
        assert result[name].startswith("NotServableError"), result[name]
        assert MISSING in result[name]
    assert result["incomplete_state"] == "quarantined"


def test_requests_that_a_pause_keeps_go_on_under_the_new_weights(run_scenario, job: Job) -> None:
    """``pause_generation(mode="keep")``, a refused and a whole update, ``resume_generation``, with cached prefixes."""
    ran = run_scenario("paused", str(job.plan), script="engines.py", in_process=False, **job.paths)
    assert ran.returncode == 0, ran.log[-3000:]
    for name, result in ran.result.items():
        assert (result["stood_still"], result["state"]) == (True, "quarantined"), name
        assert MISSING in result["incomplete"], name
        assert result["after"] == result["fresh"] != result["old"], f"{name}: a later request reads nothing old"
        assert result["ended"][: len(result["kept"])] == result["kept"], name
        assert len(result["ended"]) == 100, name
        assert result["ended"][len(result["kept"]) :] == result["whole"], f"{name}: the rest is of new weights alone"


def test_async_replicas_of_a_hybrid_run_their_own_plans(run_scenario, job: Job, alone) -> None:
    ran = run_scenario("two_replicas", str(job.hybrid), script="engines.py", in_process=False, env=APART, **job.paths)
    assert ran.returncode == 0, ran.log[-3000:]
    for name, checkpoint in (("start", "first"), ("updated", "second"), ("healed", "second")):
        observed = ran.result[name]
        assert [(worker["replica"], worker["member"]) for worker in observed["workers"]] == [(0, "eight"), (1, "plain")]
        assert [worker["layers"] for worker in observed["workers"]] == [{"int8": 8}, {"unquantized": 8}]
        for replica, member in enumerate(("eight", "plain")):
            reference = alone[f"{member} {checkpoint}"]
            assert observed["tokens_of"][replica] == reference["tokens"], (name, member)
            assert observed["resident"][replica] == reference["resident"][0], (name, member)
            assert observed["workers"][replica]["plan_digest"] == reference["status"]["plan_digest"]
        assert proven(observed, 2)
    assert MISSING in ran.result["incomplete"]
    assert all(text.startswith("NotServableError") for text in ran.result["incomplete_generate"])


def complete(address: str, reference: dict[str, Any], replica: int | None = None) -> list[str]:
    """What an OpenAI client gets for the prompts of another engine."""
    headers = {} if replica is None else {"X-data-parallel-rank": str(replica)}
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        answers = [
            client.completions.create(model="tiny", prompt=p, max_tokens=16, temperature=0, extra_headers=headers)
            for p in reference["prompts"]
        ]
    return [answer.choices[0].text.strip() for answer in answers]


def answers_as(address: str, reference: dict[str, Any], replica: int | None = None) -> bool:
    expected = [serving.text_of(tokens) for tokens in reference["tokens"]]
    return complete(address, reference, replica) == expected


def test_server_answers_as_the_offline_engine_and_503_while_its_weights_are_not_whole(
    job: Job, alone, tmp_path: Path
) -> None:
    with serving.served(job.first, str(job.plan), tmp_path) as address:
        assert answers_as(address, alone["eight first"])
        code, body = serving.rpc(address, "flashrl_status")
        assert (code, body["results"][0]["plan_digest"]) == (200, alone["eight first"]["status"]["plan_digest"])
        assert serving.rpc(address, "reload_weights", weights_path=str(job.second))[0] == 200
        assert answers_as(address, alone["eight second"])
        code, text = serving.rpc(address, "reload_weights", weights_path=str(job.lacking))
        assert code == 500
        assert MISSING in text
        for _ in range(3):
            with pytest.raises(openai.InternalServerError, match=MISSING) as refused:
                complete(address, alone["eight first"])
            assert refused.value.status_code == 503
        assert serving.rpc(address, "flashrl_status")[1]["results"][0]["state"] == "quarantined"
        assert serving.rpc(address, "reload_weights", weights_path=str(job.second))[0] == 200
        assert answers_as(address, alone["eight second"])
        report = serving.rpc(address, "flashrl_verify")[1]["results"][0]
        assert report["compared"] == report["equal"] == TENSORS


def test_server_with_replicas_of_a_hybrid_refuses_at_every_front_end(job: Job, alone, tmp_path: Path) -> None:
    arguments = ("--data-parallel-size", "2")
    with serving.served(job.first, str(job.hybrid), tmp_path, *arguments, **APART) as address:
        workers = serving.rpc(address, "flashrl_status")[1]["results"]
        assert [(worker["replica"], worker["member"]) for worker in workers] == [(0, "eight"), (1, "plain")]
        assert serving.rpc(address, "reload_weights", weights_path=str(job.lacking))[0] == 500
        for _ in range(6):  # two HTTP servers share the port
            with pytest.raises(openai.InternalServerError, match=MISSING):
                complete(address, alone["eight first"])
        assert serving.rpc(address, "reload_weights", weights_path=str(job.second))[0] == 200
        for replica, member in enumerate(("eight", "plain")):
            assert answers_as(address, alone[f"{member} second"], replica)


def test_processes_of_a_launcher_take_their_own_member(run_scenario, job: Job, alone, tmp_path: Path) -> None:
    ran = run_scenario("launched", str(job.hybrid), script="engines.py", model=job.first, folder=tmp_path)
    assert ran.returncode == 0, ran.log[-3000:]
    for rank, member in (("0", "eight"), ("1", "plain")):
        observed, reference = ran.result[rank], alone[f"{member} first"]
        assert (observed["status"]["replica"], observed["status"]["member"]) == (int(rank), member)
        assert same(observed, reference)
        assert same(observed["updated"], reference)
        assert proven(observed["updated"], 1)


def test_ray_nodes_run_the_pinned_plan_and_not_the_one_that_lies_there_later(
    run_scenario, job: Job, alone, tmp_path: Path
) -> None:
    plan, changed = tmp_path / "plan", tmp_path / "changed"
    shutil.copytree(job.plan, plan)
    command("flashrl-registry", "compile", "-m", job.first, "--scheme", "int8", "-o", changed)
    ran = run_scenario(
        "ray", None, script="engines.py", env={"PYTHONPATH": os.pathsep.join([str(HERE), *PATHS])},
        model=job.first, updated=job.second, plan=plan, changed=changed,
    )  # fmt: skip
    assert ran.returncode == 0, ran.log[-3000:]
    digest = alone["eight first"]["status"]["plan_digest"]
    assert ran.result["pinned"] == f"{plan.resolve()}#{digest.replace(':', '=')}"
    assert len({observed["node"] for observed in ran.result["start"]}) == 2
    for observed in ran.result["start"]:
        assert observed["status"]["plan_digest"] == digest
        assert same(observed, alone["eight first"])
    for observed in (*ran.result["updated"], ran.result["survivor"]):
        assert same(observed, alone["eight second"])
    assert "is not the plan that the reference pins" in ran.result["late"]
