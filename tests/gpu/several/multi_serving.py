"""``vllm serve`` with replicas on several GPUs, asked over HTTP with nothing but the standard library."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTS_WITHIN = 300


@dataclass(frozen=True)
class Server:
    """One that answers."""

    address: str
    replicas: int

    def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
        """HTTP status, and the body or its text."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def rpc(self, method: str, **kwargs: Any) -> tuple[int, Any]:
        """As a trainer drives its server."""
        return self.post("/collective_rpc", {"method": method, "kwargs": kwargs})

    def complete(self, prompt: list[int], replica: int) -> tuple[int, str]:
        """HTTP status, and the text or the error."""
        asked = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0}
        status, body = self.post("/v1/completions", asked, **{"X-data-parallel-rank": str(replica)})
        return status, body["choices"][0]["text"].strip() if status == 200 else str(body)

    def observe(self, prompts: list[list[int]]) -> dict[str, Any]:
        """What every replica says that it runs, proves, and answers."""
        return {
            "workers": self.rpc("flashrl_status")[1]["results"],
            "verify": self.rpc("flashrl_verify")[1]["results"],
            "texts_of": [[self.complete(prompt, replica)[1] for prompt in prompts] for replica in range(self.replicas)],
        }


@contextlib.contextmanager
def served(model: str, work: str, *, replicas: int) -> Iterator[Server]:
    """A server that answers; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "128", "--enforce-eager",
        "--no-enable-prefix-caching", "--num-gpu-blocks-override", "64", "--data-parallel-size", str(replicas),
        "--gpu-memory-utilization", "0.05", "--kv-cache-memory-bytes", str(1 << 28),
    ]  # fmt: skip
    log = Path(work) / "server.log"
    with log.open("wb") as sink:
        environ = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}
        process = subprocess.Popen(command, env=environ, stdout=sink, stderr=sink)
    try:
        wait_for(process, f"http://127.0.0.1:{port}", log)
        yield Server(f"http://127.0.0.1:{port}", replicas)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Raises, with the log, where the server ends or does not answer in time."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"the server does not answer, exit code {process.poll()}:\n{log.read_text()[-4000:]}")
