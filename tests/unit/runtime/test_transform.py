"""One sent tensor to what the engine's layer loads."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from flashrl_registry.compiler import lower
from flashrl_registry.documents import (
    Environment,
    Keep,
    Plan,
    QuantizeInt8,
    Rescale,
    ResolvedPlan,
    ResolvedTensor,
    Sidecar,
)
from flashrl_registry.errors import IntegrityError
from flashrl_registry.runtime.transform import Vectors, fault, load_vectors, transform

WEIGHT = ResolvedTensor(name="a.q_proj.weight", shape=[4, 8], dtype="bfloat16", op=Keep())


def with_op(op: Keep | Rescale | QuantizeInt8, shape: list[int] | None = None) -> ResolvedTensor:
    return WEIGHT.model_copy(update={"op": op, "shape": shape or WEIGHT.shape})


def test_a_kept_tensor_is_handed_on_as_it_is() -> None:
    value = torch.ones(4, 8, dtype=torch.bfloat16)
    [(name, out)] = transform(with_op(Keep()), value, Vectors({}))
    assert name == "a.q_proj.weight"
    assert out is value


def test_int8_yields_codes_and_a_scale_that_dequantize() -> None:
    value = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    factor = torch.linspace(0.5, 2, 8)
    vectors = Vectors({"inv_smoothing/norm": factor})
    outputs = dict(transform(with_op(QuantizeInt8(columns="norm")), value, vectors))
    codes, scale = outputs["a.q_proj.weight"], outputs["a.q_proj.weight_scale"]
    assert codes.dtype == torch.int8
    assert scale.shape == (4, 1)
    assert torch.allclose(codes.float() * scale * factor, value.float(), atol=float(scale.max()) * 1.1)


def test_frozen_scales_are_the_profiles() -> None:
    vectors = Vectors({"weight_scale/a.q_proj.weight": torch.full((4,), 0.25)})
    value = torch.full((4, 8), 1.0, dtype=torch.bfloat16)
    outputs = dict(transform(with_op(QuantizeInt8(scales="frozen")), value, vectors))
    assert (outputs["a.q_proj.weight"] == 4).all()
    assert (outputs["a.q_proj.weight_scale"] == 0.25).all()


def test_rescale_keeps_the_references_dtype() -> None:
    tensor = with_op(Rescale(rows="norm"), [8])
    factor = torch.full((8,), 0.5)
    [(_, out)] = transform(tensor, torch.ones(8), Vectors({"inv_smoothing/norm": factor}))
    assert out.dtype == torch.bfloat16
    assert (out == 0.5).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(4, 7, dtype=torch.bfloat16), "the plan says"),
        (torch.zeros(4, 8, dtype=torch.int8), "a trainer sends"),
        (torch.zeros(4, 8, dtype=torch.float64), "a trainer sends"),
    ],
)
def test_what_cannot_be_the_tensor_is_named(value: torch.Tensor, text: str) -> None:
    assert text in (fault(WEIGHT, value) or "")
    assert fault(WEIGHT, torch.zeros(4, 8, dtype=torch.float16)) is None


@pytest.fixture
def with_vectors(smoothed_plan: Plan, tmp_path: Path) -> tuple[ResolvedPlan, Path]:
    """A plan, and the file of vectors that it refers to."""
    resolved = lower(smoothed_plan, Environment(vllm="0.32.0", device="cpu"), "test")
    sizes = {tensor.name: tensor.shape[0] for tensor in resolved.tensors}
    sources = {tensor.op.rows or "" for tensor in resolved.tensors if isinstance(tensor.op, Rescale | QuantizeInt8)}
    data = save({f"inv_smoothing/{name}": torch.linspace(0.5, 2, sizes[name]) for name in sources - {""}})
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    sidecar = Sidecar(digest=digest, num_bytes=len(data))
    file = tmp_path / sidecar.file_name
    file.write_bytes(data)
    return resolved.model_copy(update={"sidecar": sidecar}), file


def test_vectors_stay_what_they_were_when_their_file_is_written_over_or_cut(with_vectors) -> None:
    resolved, file = with_vectors
    vectors = load_vectors(file, resolved)
    before = {key: value.tolist() for key, value in vectors.by_key.items()}
    assert before
    with file.open("r+b") as opened:  # the same file, not another one of its name
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\x40" * (file.stat().st_size // 2))
    assert {key: value.tolist() for key, value in vectors.by_key.items()} == before
    os.truncate(file, 0)
    assert {key: value.tolist() for key, value in vectors.by_key.items()} == before, "or the process dies of SIGBUS"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"\0", lambda _: b""])
def test_an_engine_does_not_start_with_vectors_that_changed_after_they_were_checked(with_vectors, change) -> None:
    resolved, file = with_vectors
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(IntegrityError, match="is not the file of vectors that the plan refers to: expected sha256:"):
        load_vectors(file, resolved)
