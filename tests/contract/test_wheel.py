"""The wheel: both packages, both console scripts, schemas and profiles, and nothing else."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUNDLED = "flashrl_registry/_bundled/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation: hatchling is a development dependency, so no index is needed."""
    out = tmp_path_factory.mktemp("wheel")
    command = [
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    ran = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own, with its console scripts."""
    target = tmp_path_factory.mktemp("installed")
    command = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    ran = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return target


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    script = installed / "bin" / arguments[0]
    return subprocess.run(
        [sys.executable, str(script), *arguments[1:]], env=environ, capture_output=True, text=True, check=False,
        cwd=installed,
    )  # fmt: skip


def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"flashrl_registry", "flashrl_cli"}
    assert {"flashrl_registry/py.typed", "flashrl_cli/py.typed"} <= names(wheel)
    assert not [name for name in names(wheel) if name.endswith((".pyc", ".pt"))]
    weights = [name for name in names(wheel) if name.endswith(".safetensors")]
    assert [name.rpartition("/")[0] for name in weights] == [
        BUNDLED + "profiles/HuggingFaceTB/SmolLM2-135M-Instruct/int8"  # the vectors of the one measured profile
    ]
    sources = {
        str(path.relative_to(base))
        for base, package in ((ROOT, "flashrl_registry"), (ROOT / "cli", "flashrl_cli"))
        for pattern in ("*.py", "*.css")
        for path in (base / package).rglob(pattern)
    }
    assert sources <= names(wheel)


def test_schemas_and_profiles_are_bundled_byte_for_byte(wheel: Path) -> None:
    expected = {
        BUNDLED + str(path.relative_to(ROOT)): path.read_bytes()
        for folder in ("schemas", "profiles")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if name.startswith(BUNDLED)}
    assert found == expected


def test_the_base_install_needs_no_torch(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needed
    assert not [line for line in needed if line.startswith(("torch", "vllm", "safetensors", "numpy", "transformers"))]


def test_both_console_scripts_and_the_plugin_are_installed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "flashrl = flashrl_cli.app:flashrl_main" in text
    assert "flashrl-registry = flashrl_cli.app:registry_main" in text
    assert "[vllm.general_plugins]\nflashrl_registry = flashrl_registry.runtime.plugin:register" in text


def test_the_installed_scripts_run(installed: Path) -> None:
    for program in ("flashrl", "flashrl-registry"):
        ran = run(installed, program, "--help")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith(f"Usage: {program} ")
    assert run(installed, "flashrl-registry", "show", "no/such").returncode == 1


def test_the_installed_package_finds_its_own_schemas(installed: Path) -> None:
    ran = run(installed, "flashrl-registry", "schema", "--check")
    assert ran.returncode == 0, ran.stderr
    assert str(installed / BUNDLED / "schemas") in ran.stdout
