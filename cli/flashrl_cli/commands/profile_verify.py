"""``flashrl-registry profile-verify``: replay a profile on its pair."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, needs


def profile_verify(
    profile: Annotated[
        Path, typer.Argument(metavar="PROFILE", help="The profile, or its folder; its vectors lie beside it.")
    ],
    reference: Annotated[str, typer.Argument(metavar="REF", help="The bf16 checkpoint: a folder, or owner/name.")],
    quantized: Annotated[str, typer.Argument(metavar="QUANT", help="The 8-bit checkpoint, named in the same way.")],
    threads: Annotated[int, typer.Option("--threads", min=1, help="Linears that are worked on at a time.")] = 1,
    as_json: Json = False,
) -> None:
    """Requantize every row of a pair with a profile's vectors, and compare with its codes and with the profile."""
    with needs("verifying a profile"):
        from flashrl_registry.profiling import verify_profile

        with output.waiting("replaying", enabled=not as_json):
            verified = verify_profile(profile, reference, quantized, threads=threads)
    worst = verified.smallest
    lines = [
        f"profile    {profile} describes this pair",
        f"linears    {len(verified.linears)}: {verified.codes_equal:.2%} of the codes equal on average",
        f"norms      {verified.num_norms} equal to the last bit; {verified.num_vectors} vectors",
    ]
    if worst is not None:
        lines.insert(2, f"fewest     {worst.codes_equal:.2%} in {worst.name}, {worst.residual_rms:.3f} codes rms")
    output.result(
        {
            "profile": profile,
            "num_linears": len(verified.linears),
            "codes_equal": verified.codes_equal,
            "smallest": None if worst is None else {"name": worst.name, "codes_equal": worst.codes_equal},
            "num_norms": verified.num_norms,
            "linears": [facts.model_dump(mode="json", exclude_none=True) for facts in verified.linears],
        },
        "\n".join(lines),
        as_json=as_json,
    )
