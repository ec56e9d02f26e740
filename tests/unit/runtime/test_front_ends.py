"""Every process that accepts requests looks at the file that the workers write."""

from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.runtime._vllm.engine_args import gate_for
from flashrl_registry.runtime.gate import create_gate, open_gate


@dataclass
class Args:
    """The fields of vLLM's EngineArgs that number HTTP servers; -1 is the process that starts them."""

    _api_process_count: int = 1
    _api_process_rank: int = 0


def test_http_servers_share_the_gate_of_the_process_that_starts_the_engines() -> None:
    environ: dict[str, str] = {}
    gate = gate_for(Args(2, -1), environ)
    assert gate_for(Args(2, 0), environ) == gate_for(Args(2, 1), environ) == gate
    assert gate_for(Args(), environ) != gate, "another engine of the same process has its own"


def test_a_worker_that_cannot_reach_the_gate_runs_without_it(tmp_path: Path) -> None:
    assert open_gate(tmp_path / "on-another-machine") is None
    assert open_gate(create_gate()) is not None
