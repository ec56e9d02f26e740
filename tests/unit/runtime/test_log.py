"""Where our lines go, and what is said when they cannot go there."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashrl_registry.errors import RuntimeLoadError
from flashrl_registry.runtime import log
from flashrl_registry.runtime.settings import Settings, settings_from_env


@pytest.fixture(autouse=True)
def _untouched_logger() -> Iterator[None]:
    """The process's own handlers are put back."""
    logger = log.logger
    before, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.handlers = []
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.propagate = before, propagate
    logger.setLevel(level)


def settings(file: Path) -> Settings:
    return settings_from_env({"FLASHRL_CONFIG": "int8", "FLASHRL_LOGGING_FILE": str(file)})


def test_lines_go_to_the_file_and_not_to_the_root_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = list(logging.getLogger().handlers)
    log.configure(settings(tmp_path / "ours.log"))
    log.logger.info("a line")
    assert "a line" in (tmp_path / "ours.log").read_text()
    assert caplog.text == ""
    assert logging.getLogger().handlers == root


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing/ours.log", "No such file or directory"), ("", "Is a directory"), ("file/ours.log", "Not a directory")],
)
def test_a_log_file_that_cannot_be_written_is_one_error_that_names_the_variable(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "file").write_text("")
    file = tmp_path / name
    for _ in range(2):  # whoever tries again is told again
        with pytest.raises(RuntimeLoadError) as caught:
            log.configure(settings(file))
        assert caught.value.message == f"FLASHRL_LOGGING_FILE={file} cannot be written: {why}"
        assert "unset the variable" in str(caught.value.hint)
    assert log.logger.handlers == []
    assert not (tmp_path / "missing").exists()
