"""Checkpoints that four GPUs can share, and plans for them, for ``test_multi_gpu.py``: tiny ones, and true widths."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import multi_shapes
import tiny
import tiny_pair
from multi_programs import Result, own_environ

RULES = {
    "frozen": "update: {scales: frozen}\nrules:\n"
    "- {name: linears, scheme: int8, targets: ['*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n",
}


@dataclass
class Models:
    """Checkpoints that four workers can share, and plans for them."""

    work: Path
    cpu: bool
    true_widths: bool = True
    folders: dict[str, list[str]] = field(default_factory=dict)
    plans: dict[str, dict[str, str]] = field(default_factory=dict)

    def make(self) -> None:
        # Four workers still hold sides that are multiples of 128, which float8 blocks need.
        tiny.HEADS, tiny.KV_HEADS, tiny.sizes = 8, 4, lambda *, wide: (1024, 1024)
        kinds = ["dense"] if self.cpu else ["dense", "experts"]
        kinds += multi_shapes.CONFIGS if self.true_widths and not self.cpu else []
        with ThreadPoolExecutor() as pool:
            made = {(kind, seed): pool.submit(self.write, kind, seed) for kind in kinds for seed in (1, 2)}
            self.folders = {kind: [made[kind, seed].result() for seed in (1, 2)] for kind in kinds}
        for folders in self.folders.values():
            folders.append(half_of(folders[1]))
        schemes = ("int8",) if self.cpu else ("int8", "fp8_channel", "fp8_block")
        self.plans = {kind: {scheme: scheme for scheme in schemes} for kind in self.folders}
        self.plans["dense"] |= self.profiled("dense", "smoothed", "frozen")
        if "Qwen2.5-32B" in kinds:
            self.plans["Qwen2.5-32B"] |= self.profiled("Qwen2.5-32B", "smoothed")
        hybrid = self.work / "hybrid.yaml"
        hybrid.write_text(
            "schema_version: flashrl.hybrid/v1\nmembers:\n- {name: eight, plan: int8}\n- {name: plain, plan: bf16}\n"
        )

    def write(self, kind: str, seed: int) -> str:
        """A checkpoint."""
        folder = self.work / f"{kind}{seed}"
        if kind in multi_shapes.CONFIGS:
            return str(multi_shapes.write(folder, kind, seed))
        return str(tiny.write(folder, seed, wide=True, moe=kind == "experts"))

    def profiled(self, kind: str, *names: str) -> dict[str, str]:
        """Plans with the smoothing, and with the scales, of a W8A8 twin."""
        first, work = Path(self.folders[kind][0]), self.work / f"{kind} profiled"
        work.mkdir()
        twin = tiny_pair.write_w8a8(first, work / "w8a8")
        command("flashrl_main", "profile", "-m", first, "-qm", twin, "-o", work / "profile", "--fn", "int8")
        for name in names:
            rules = ()
            if name in RULES:
                (work / f"{name}.yaml").write_text("schema_version: flashrl.rules/v1\n" + RULES[name])
                rules = ("--rules", work / f"{name}.yaml")
            compile_plan = ("registry_main", "compile", "-m", first, "--profile", work / "profile", *rules)
            command(*compile_plan, "-o", work / name)
        return {f"int8 {name}": str(work / name) for name in names}

    def args(self, kind: str, **more: Any) -> Result:
        start, updated, half = self.folders[kind]
        return {"start": start, "updated": updated, "half": half, **more}


def half_of(folder: str) -> str:
    """A checkpoint that lacks the second half of its tensors."""
    from safetensors.torch import load_file, save_file

    half = f"{folder}-half"
    shutil.copytree(folder, half)
    tensors = list(load_file(f"{folder}/model.safetensors").items())
    save_file(dict(tensors[: len(tensors) // 2]), f"{half}/model.safetensors", metadata={"format": "pt"})
    return half


def command(main: str, *args: object) -> None:
    """What a user types; scripts need not be on PATH."""
    code = f"import sys; from flashrl_cli.app import {main}; sys.exit({main}())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False, env=own_environ()
    )
    if done.returncode != 0:
        raise RuntimeError(f"{main} {' '.join(map(str, args))}\n{done.stdout}{done.stderr}")
