"""Object code of the compiled loops: made once by numba, kept beside the program, loaded without numba.

Importing numba and loading what it keeps takes 0.6 s and 130 MiB; llvmlite and an object file take 0.07 s and 50 MiB
(measured), less than what the loops save on half a billion weights. The file is named by everything that it depends
on, and holds its own digest: one that was cut short is made again.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import llvmlite
import llvmlite.binding as llvm

_SOURCES = ("kernels.py", "kernel_arithmetic.py", "layout.py", "object_code.py")
NAMES = ("compare_int8", "compare_fp8", "fit_rows", "moments", "widen", "mark_used")
_DIGEST_BYTES = 32
_KEEP: list[Any] = []
"""What the loaded code lives in."""


@cache
def addresses() -> dict[str, int]:
    """Where the loops are in memory, by name. The first process on a machine compiles them, which takes seconds."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    name = _file_name(features)
    code = _read(name)
    if code is None:
        code = _object_code(_compiled(), features)
        _write(name, code)
    return _load(code, features)


def _file_name(features: str) -> str:
    digest = hashlib.sha256()
    for part in (llvmlite.__version__, llvm.get_default_triple(), llvm.get_host_cpu_name(), features):
        digest.update(part.encode() + b"\0")
    for source in _SOURCES:
        digest.update(Path(__file__).with_name(source).read_bytes())
    return f"loops.{digest.hexdigest()[:16]}.o"


def _folders() -> Iterator[Path]:
    """Where object code is kept: like Python's own, beside the source, or else in the user's cache."""
    yield Path(__file__).parent / "__pycache__"
    from platformdirs import user_cache_path

    yield user_cache_path("flashrl-registry") / "loops"


def _read(name: str) -> bytes | None:
    for folder in _folders():
        with suppress(OSError):
            file = (folder / name).read_bytes()
            if hashlib.sha256(file[_DIGEST_BYTES:]).digest() == file[:_DIGEST_BYTES]:
                return file[_DIGEST_BYTES:]
    return None


def _write(name: str, code: bytes) -> None:
    """Keep it in the first folder that can be written; where there is none, every process compiles."""
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{name}.{os.getpid()}.{uuid4().hex}"
            try:
                with temporary.open("xb") as file:  # readable for whom the umask says, as Python's own
                    file.write(hashlib.sha256(code).digest() + code)
                temporary.replace(folder / name)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            return


def _compiled() -> str:
    """One module with every loop under its own name, as LLVM's text.

    numba writes each as a C function around the function proper; the former reports Python errors, which there are
    none of, and would need numba in every process.
    """
    from flashrl_registry.profiling.kernels import compile_loops  # numba is imported here only

    linked = None
    for name, loop in compile_loops().items():  # type: ignore[no-untyped-call]
        wrapper, proper = loop.native_name, loop.native_name.removeprefix("cfunc.")
        text = re.sub(rf'^define [^\n]*@"?{re.escape(wrapper)}"?\(.*?^}}$', "", loop.inspect_llvm(), flags=re.M | re.S)
        text = re.sub(rf'@"?{re.escape(proper)}"?\(', f"@{name}(", text)
        module = llvm.parse_assembly(text)
        if linked is None:
            linked = module
        else:
            linked.link_in(module)
    return str(linked)


def _object_code(text: str, features: str) -> bytes:
    module = llvm.parse_assembly(text)
    module.verify()
    missing = set(NAMES) - {function.name for function in module.functions if not function.is_declaration}
    if missing:
        raise RuntimeError(f"numba did not compile {', '.join(sorted(missing))} in a way that can be kept")
    code: bytes = _machine(features).emit_object(module)
    return code


def _load(code: bytes, features: str) -> dict[str, int]:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(features))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _KEEP.append(engine)
    return {name: engine.get_function_address(name) for name in NAMES}


def _machine(features: str) -> Any:
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, codemodel="jitdefault", jit=True
    )
