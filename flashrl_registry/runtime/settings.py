"""The environment variables, read once at the edge and passed on as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.errors import RuntimeLoadError

CONFIG = "FLASHRL_CONFIG"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
PASSPHRASE = "FLASHRL_SIGNING_PASSPHRASE"  # noqa: S105 - the name of a variable
VARIABLES = (
    CONFIG, "FLASHRL_LMHEAD_FP32", "FLASHRL_LOGGING_LEVEL", "FLASHRL_LOGGING_FILE", "FLASHRL_TEST_RELOAD",
    "FLASHRL_REGISTRY", "FLASHRL_REPLICA", "FLASHRL_GATE", "FLASHRL_STORES", "FLASHRL_TRUSTED", "FLASHRL_PINNED",
    "FLASHRL_SIGNING_KEY", PASSPHRASE, "FLASHRL_OPS",
)  # fmt: skip
"""Every variable of ours that something reads."""


@dataclass(frozen=True)
class Settings:
    """What the environment asks for.

    Attributes:
        config: ``FLASHRL_CONFIG``: a plan reference; None switches everything off.
        lm_head_fp32: ``FLASHRL_LMHEAD_FP32``: compute logits in float32.
        logging_level: ``FLASHRL_LOGGING_LEVEL``.
        logging_file: ``FLASHRL_LOGGING_FILE``; None logs to stderr.
        test_reload: ``FLASHRL_TEST_RELOAD``: checkpoints to load in turn after start.
    """

    config: str | None
    lm_head_fp32: bool = False
    logging_level: str = "INFO"
    logging_file: Path | None = None
    test_reload: tuple[str, ...] = ()


def settings_from_env(environ: Mapping[str, str]) -> Settings:
    """Read the FLASHRL_* variables.

    Raises:
        RuntimeLoadError: A variable has a value that means nothing.
    """
    flag = environ.get("FLASHRL_LMHEAD_FP32", "").strip().lower()
    if flag not in _TRUE | _FALSE:
        raise RuntimeLoadError(f"FLASHRL_LMHEAD_FP32={flag} means nothing", hint="use 1 or 0")
    level = environ.get("FLASHRL_LOGGING_LEVEL", "").strip().upper() or "INFO"
    if level not in _LEVELS:
        raise RuntimeLoadError(f"FLASHRL_LOGGING_LEVEL={level} means nothing", hint="use " + ", ".join(_LEVELS))
    file = environ.get("FLASHRL_LOGGING_FILE", "").strip()
    reload_models = environ.get("FLASHRL_TEST_RELOAD", "")
    return Settings(
        config=environ.get(CONFIG, "").strip() or None,
        lm_head_fp32=flag in _TRUE,
        logging_level=level,
        logging_file=Path(file) if file else None,
        test_reload=tuple(part.strip() for part in reload_models.split(",") if part.strip()),
    )


def read_by_nothing(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each FLASHRL_* variable that has no meaning, with the nearest one that has."""
    unknown = sorted(key for key in environ if key.startswith("FLASHRL_") and key not in VARIABLES)
    return [f"{key} is read by nothing{did_you_mean(key, VARIABLES)}" for key in unknown]
