"""Scenarios that share a process: what they are given and what they leave behind."""

from pathlib import Path
from typing import Any


class Several:
    """What scenarios that shared a process left behind.

    Args:
        outcomes: By name of the job.
        log: Of all of them.
    """

    def __init__(self, outcomes: dict[str, dict[str, Any]], log: str) -> None:
        self._outcomes, self.log = outcomes, log

    def __getitem__(self, name: str) -> dict[str, Any]:
        """A job's result; the test fails where the job did."""
        assert "result" in self._outcomes[name], f"{name}: {self._outcomes[name]['error']}\n{self.log[-3000:]}"
        result: dict[str, Any] = self._outcomes[name]["result"]
        return result

    def error(self, name: str) -> str:
        """The error that ended a job; the test fails where it ended well."""
        assert "error" in self._outcomes[name], f"{name} ended well"
        return str(self._outcomes[name]["error"])


def job(scenario: str, config: str | Path | None = None, env: dict[str, str] | None = None, **args: Any) -> Any:
    """One scenario for ``run_several``: ``module.function``, its FLASHRL_CONFIG and its arguments."""
    plan = {} if config is None else {"FLASHRL_CONFIG": str(config)}
    return {"scenario": scenario, "env": plan | (env or {}), "args": args}
