"""Search by the device that a plan is to run on, in every kind of store; listings too long to hold."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashrl_cli import output
from flashrl_cli.commands.list import print_listed
from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.compiler.devices import devices_of
from flashrl_registry.documents import Inventory
from flashrl_registry.errors import FlashRLError, InvalidRefError, StoreUnavailableError
from flashrl_registry.registry import LocalStore, PlanBundle, Store, read_bundle, write_bundle
from flashrl_registry.registry.bundled import BundledStore
from flashrl_registry.registry.finding import Criteria, find
from flashrl_registry.registry.hybrids import read_any_bundle
from flashrl_registry.registry.store import Listed
from flashrl_registry.registry.url import UrlStore


@pytest.fixture(params=["local", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "registry")
    return UrlStore(f"file://{tmp_path}/shared", tmp_path / "cache")


def names(stores: list[Store], device: str) -> list[str]:
    return [line.name for line in find(stores, Criteria(device=device)) if isinstance(line, Listed)]


def test_float8_is_for_gpus_and_a_hybrid_runs_where_all_of_its_members_do(
    store: Store, tmp_path: Path, bundle: PlanBundle, inventory: Inventory
) -> None:
    write_bundle(tmp_path / "job" / "float8", compile_plan(preset_rules("fp8_channel", inventory), inventory).plan)
    (tmp_path / "job" / "hybrid.yaml").write_text(
        "schema_version: flashrl.hybrid/v1\nmembers:\n- {name: a, plan: ../bundle}\n- {name: b, plan: ./float8}\n"
    )
    store.publish(bundle, "team/int8", "1.0.0")
    store.publish(read_bundle(tmp_path / "job" / "float8"), "team/float8", "1.0.0")
    store.publish(read_any_bundle(tmp_path / "job"), "team/mix", "1.0.0")
    for _ in range(2):  # the second time from an index, where there is one
        assert names([store], "cpu") == ["team/int8"]
        assert names([store], "cuda") == names([store], "rocm") == ["team/float8", "team/int8", "team/mix"]
    (line,) = find([store], Criteria("int8", vllm="0.32.0", architecture="LlamaForCausalLM"))
    assert isinstance(line, Listed)
    assert line.name == "team/int8"


def test_bundled_plans_are_found_by_device() -> None:
    found = names([BundledStore()], "cpu")
    assert "Qwen/Qwen2.5-0.5B-Instruct:int8" in found
    assert not [name for name in found if ":fp8" in name]
    assert "Qwen/Qwen2.5-0.5B-Instruct:fp8" in names([BundledStore()], "cuda")


def test_a_device_that_is_none_is_an_error() -> None:
    with pytest.raises(InvalidRefError, match="'gpu' is not a device") as caught:
        Criteria(device="gpu")
    assert caught.value.hint == "one of: cpu, cuda, rocm"


def test_int8_experts_are_for_gpus() -> None:
    assert devices_of([[("model.layers.0.mlp.experts.0.up_proj.weight", "int8")]]) == ("cuda", "rocm")
    assert devices_of([[("model.norm.weight", "keep")]]) == ("cpu", "cuda", "rocm")


def line(number: int) -> Listed:
    return Listed(f"team/plan-{number}", "1.0.0", "m", "A", ("int8",), "", "sha256:0")


def test_a_listing_is_written_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    sizes = []

    def lines() -> Iterator[Listed | FlashRLError]:
        for number in range(3):
            yield line(number)
            sizes.append(len(written.getvalue()))

    print_listed(lines(), {"registry": "x"}, "nothing", as_json=True)
    assert sizes[0] > 0
    assert sizes == sorted(set(sizes)), "each line is written before the next is read"
    data = json.loads(written.getvalue())
    assert [plan["name"] for plan in data["plans"]] == ["team/plan-0", "team/plan-1", "team/plan-2"]
    assert (data["registry"], data["ok"], data["damaged"]) == ("x", True, [])


def test_an_error_before_the_first_line_is_the_answer_and_one_after_it_is_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(before: int) -> Iterator[Listed | FlashRLError]:
        for number in range(before):
            yield line(number)
        raise StoreUnavailableError("out of order")

    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    with pytest.raises(StoreUnavailableError):
        print_listed(broken(0), {}, "nothing", as_json=True)
    assert written.getvalue() == ""
    with pytest.raises(Exception, match="1"):  # typer's Exit carries the code
        print_listed(broken(1), {}, "nothing", as_json=True)
    data = json.loads(written.getvalue())
    assert (data["ok"], len(data["plans"]), data["damaged"][0]["code"]) == (False, 1, "store-unavailable")


def test_an_empty_list_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    output.stream({"a": 1}, "items", [], lambda: {"ok": True})
    assert json.loads(written.getvalue()) == {"a": 1, "items": [], "ok": True}
    written.truncate(0)
    written.seek(0)
    output.stream({}, "items", [{"b": 2}], lambda: {"ok": True})
    assert json.loads(written.getvalue()) == {"items": [{"b": 2}], "ok": True}
