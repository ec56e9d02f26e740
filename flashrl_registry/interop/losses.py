"""What a plan does that a format cannot say: all of it, before anything is written."""

from collections.abc import Collection
from dataclasses import dataclass, field

from flashrl_registry.documents import EngineSettings, Plan
from flashrl_registry.errors import Diagnostic, NotExpressibleError


@dataclass
class Losses:
    """Collects what an export would lose.

    Attributes:
        target: The format, for messages.
        lossy: The user agreed: losses become notes.
        diagnostics: What would be lost.
        impossible: What no agreement helps with.
        notes: What a reader should know.
    """

    target: str
    lossy: bool
    diagnostics: list[Diagnostic] = field(default_factory=list)
    impossible: list[Diagnostic] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lose(self, where: str, message: str) -> None:
        """Part of the plan that the format leaves out."""
        self.diagnostics.append(Diagnostic("not-expressible", "error", where, message))

    def refuse(self, where: str, message: str) -> None:
        """Part of the plan without which the export would be another plan."""
        self.impossible.append(Diagnostic("not-expressible", "error", where, message))

    def note(self, message: str) -> None:
        """Something to know."""
        if message not in self.notes:
            self.notes.append(message)

    def check(self) -> None:
        """Refuse the export, or turn what is lost into notes.

        Raises:
            NotExpressibleError: Everything that the format cannot say.
        """
        if self.impossible or (self.diagnostics and not self.lossy):
            left = [] if self.lossy else self.diagnostics
            hint = "--lossy leaves out " + ", ".join(diagnostic.where for diagnostic in left) if left else None
            if hint and self.impossible:
                hint += "; the rest has to be mended"
            raise NotExpressibleError(
                f"{self.target} cannot say all that the plan does", [*self.impossible, *left], hint=hint
            )
        for diagnostic in self.diagnostics:
            self.note(f"left out: {diagnostic.where}: {diagnostic.message}")

    def settings(self, plan: Plan, *, said: Collection[str]) -> None:
        """Engine settings other than the defaults.

        Args:
            plan: The plan.
            said: Settings that the format has a word for.
        """
        defaults = EngineSettings()
        for name in EngineSettings.model_fields:
            value = getattr(plan.engine, name)
            if name not in said and value != getattr(defaults, name):
                self.lose(f"engine.{name}", f"{value} has no place in it")

    def profile(self, plan: Plan) -> None:
        """Smoothing and fixed scales, which formats without tensors cannot carry."""
        if plan.smoothing:
            families = len(plan.smoothing)
            self.lose("smoothing", f"{families} families of factors are values, which only the weights can carry")
        if plan.update.scales == "frozen":
            self.lose("update.scales", "frozen scales are values, which only the weights can carry")
