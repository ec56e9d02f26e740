"""Tiny checkpoints that four GPUs can share, and plans for them, for ``test_multi_gpu.py``."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    folders: dict[str, list[str]] = field(default_factory=dict)
    plans: dict[str, dict[str, str]] = field(default_factory=dict)

    def make(self) -> None:
        # Four workers still hold sides that are multiples of 128, which float8 blocks need.
        tiny.HEADS, tiny.KV_HEADS, tiny.sizes = 8, 4, lambda *, wide: (1024, 1024)
        for kind in ("dense",) if self.cpu else ("dense", "experts"):
            self.folders[kind] = [
                str(tiny.write(self.work / f"{kind}{seed}", seed, wide=True, moe=kind == "experts")) for seed in (1, 2)
            ]
            self.folders[kind].append(half_of(self.folders[kind][1]))
        schemes = ("int8",) if self.cpu else ("int8", "fp8_channel", "fp8_block")
        self.plans = {kind: {scheme: scheme for scheme in schemes} for kind in self.folders}
        self.plans["dense"] |= self.profiled()
        hybrid = self.work / "hybrid.yaml"
        hybrid.write_text(
            "schema_version: flashrl.hybrid/v1\nmembers:\n- {name: eight, plan: int8}\n- {name: plain, plan: bf16}\n"
        )

    def profiled(self) -> dict[str, str]:
        """Plans with the smoothing, and with the scales, of a W8A8 twin."""
        first, twin = self.folders["dense"][0], tiny_pair.write_w8a8(Path(self.folders["dense"][0]), self.work / "w8a8")
        profile, rules = self.work / "profile", self.work / "frozen.yaml"
        rules.write_text("schema_version: flashrl.rules/v1\n" + RULES["frozen"])
        command("flashrl_main", "profile", "-m", first, "-qm", twin, "-o", profile, "--fn", "int8")
        compile_plan = ("registry_main", "compile", "-m", first, "--profile", profile)
        command(*compile_plan, "-o", self.work / "smoothed")
        command(*compile_plan, "--rules", rules, "-o", self.work / "frozen")
        return {"int8 smoothed": str(self.work / "smoothed"), "int8 frozen": str(self.work / "frozen")}

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
