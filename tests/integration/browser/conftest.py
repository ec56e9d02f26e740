"""Headless Chromium, the machine's own."""

import html
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "report"))  # report_documents.py

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Chromium:
    """A browser that reaches no network.

    Attributes:
        program: Its path.
        profile: Its own folder.
    """

    program: str
    profile: Path

    def __call__(self, *arguments: str) -> str:
        """Run it to its end; what it prints."""
        command = [
            self.program, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={self.profile}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # as root, as in a container, it starts only without
            *arguments,
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def screenshot(self, page: Path, destination: Path, width: int, height: int, *, dark: bool = False) -> Path:
        """A picture of the page at a window's size."""
        theme = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
        self(*theme, f"--window-size={width},{height}", f"--screenshot={destination}", page.as_uri())
        return destination

    def ask(self, page: Path, script: str, width: int) -> str:
        """What a script answers of a page in a frame of a width; ``page`` is its document.

        The page lets no script run, so the question comes from around it.
        """
        around = f"""<!DOCTYPE html><body style="margin:0">
<iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page.read_text())}"></iframe>
<script>onload = () => {{
  const page = document.getElementById("frame").contentDocument;
  const answer = (() => {{ {script} }})();
  document.getElementById("frame").remove();
  document.body.textContent = "[[" + answer + "]]";
}}</script></body>"""
        asking = self.profile.with_name("asking.html")
        asking.write_text(around)
        said = self(f"--window-size={width},900", "--dump-dom", asking.as_uri())
        return said.partition("[[")[2].rpartition("]]")[0]


@pytest.fixture
def chromium(tmp_path: Path) -> Chromium:
    """The browser; a suite that was asked for never skips."""
    named = os.environ.get("FLASHRL_CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None or not Path(found).is_file():
        pytest.fail(
            f"no Chromium: {named or ', '.join(_NAMES)} not found; apt-get install -y chromium, or set "
            "FLASHRL_CHROMIUM to its path"
        )
    return Chromium(found, tmp_path / "browser")
