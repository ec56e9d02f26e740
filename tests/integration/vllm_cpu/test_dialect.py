"""The words that a plan is lowered to are words that the installed vLLM knows."""

import json
import subprocess
import sys

import pytest
from packaging.specifiers import SpecifierSet

from flashrl_registry.compiler.dialect import DIALECTS, dialect_of
from flashrl_registry.documents.quantization import SCHEME_ARGS
from flashrl_registry.documents.rules import SUPPORTED_VLLM

pytestmark = pytest.mark.vllm

PROGRAM = """
import json, sys
import vllm
from vllm.config.quantization import resolve_quantization_config
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, get_quantization_config
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
import inspect
from flashrl_registry.compiler import lower, compile_plan
from flashrl_registry.compiler.engine_config import compressed_tensors_config
from flashrl_registry.documents import ResolvedTensor, QuantizeFp8, QuantizeInt8
ops = {"int8": QuantizeInt8(), **{f"fp8_{s}": QuantizeFp8(strategy=s) for s in ("tensor", "channel", "block")}}
out = {"version": vllm.__version__, "methods": list(QUANTIZATION_METHODS), "schemes": {}}
made = resolve_quantization_config("fp8_per_tensor", {"ignore": ["lm_head"]})
out["online_ignore"] = list(made.ignore)
out["head_dtype"] = "head_dtype" in inspect.getsource(LogitsProcessor)
for scheme, op in ops.items():
    tensor = ResolvedTensor(name="m.q_proj.weight", shape=[256, 256], dtype="bfloat16", op=op)
    parsed = CompressedTensorsConfig.from_config(compressed_tensors_config([tensor]))
    [args] = parsed.target_scheme_map.values()
    out["schemes"][scheme] = {k: json.loads(args[k].model_dump_json()) for k in ("weights", "input_activations")}
mixed = [ResolvedTensor(name=f"m.{i}.q_proj.weight", shape=[256, 256], dtype="bfloat16", op=op)
         for i, op in enumerate(ops.values())]
out["mixed_targets"] = len(CompressedTensorsConfig.from_config(compressed_tensors_config(mixed)).target_scheme_map)
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def installed() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    result: dict[str, object] = json.loads(line.removeprefix("RESULT"))
    return result


def test_the_table_has_one_row_for_every_supported_release() -> None:
    for release in ("0.25.1", "0.26.0", "0.27.0", "0.27.1", "0.30.0", "0.32.0", "0.33.0"):
        assert SpecifierSet(SUPPORTED_VLLM).contains(release)
        assert sum(SpecifierSet(row.releases).contains(release) for row in DIALECTS) == 1


def test_the_online_method_and_the_head_are_known_to_this_vllm(installed) -> None:
    words = dialect_of(installed["version"])
    assert words.online_fp8 in installed["methods"]
    assert installed["online_ignore"] == ["lm_head"]
    assert words.honours_head_dtype is installed["head_dtype"]


def test_vllm_reads_every_scheme_as_it_is_meant(installed) -> None:
    for scheme, args in SCHEME_ARGS.items():
        read = installed["schemes"][scheme]
        for key, ours in (("weights", args.weights), ("input_activations", args.input_activations)):
            for field, value in ours.model_dump(exclude_none=True).items():
                assert read[key][field] == value, f"{scheme} {key} {field}"
    assert installed["mixed_targets"] == 4
