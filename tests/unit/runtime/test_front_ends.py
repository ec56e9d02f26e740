"""Every process that accepts requests looks at the file that the workers write."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from flashrl_registry.errors import InvalidRefError, NotServableError, WeightFault, WeightMismatchError
from flashrl_registry.runtime._vllm.engine_args import gate_for
from flashrl_registry.runtime.gate import SERVE_HINT, create_gate, open_gate
from flashrl_registry.runtime.reference import plan_reference
from flashrl_registry.runtime.updates import evenly_spaced


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


@pytest.mark.parametrize(("limit", "read"), [(None, 120), (1, 1), (50, 50), (61, 61), (119, 119), (500, 120), (0, 0)])
def test_verify_reads_back_as_many_layers_as_it_is_asked_for(limit: int | None, read: int) -> None:
    names = [str(index) for index in range(120)]
    chosen = evenly_spaced(names, limit)
    assert len(set(chosen)) == len(chosen) == read
    gaps = {int(second) - int(first) for first, second in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_hint_that_a_quoted_error_has_already_is_told_once() -> None:
    cause = WeightMismatchError("weight update refused", [WeightFault("x", "missing")], hint=SERVE_HINT)
    told = str(NotServableError(f"the engine refuses to generate: {cause}", hint=SERVE_HINT))
    assert told.count(SERVE_HINT) == 1
    assert str(NotServableError("no", hint="why")) == "no\n  hint: why"


@pytest.mark.parametrize("config", ["x" * 5000, "./" + "y" * 300, "owner/" + "z" * 5000 + ".yaml"])
def test_a_name_that_no_file_can_have_is_no_reference(config: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRefError, match="is not a plan reference: File name too long") as told:
        plan_reference(config, tmp_path, lambda: None)
    assert len(str(told.value)) < 400
