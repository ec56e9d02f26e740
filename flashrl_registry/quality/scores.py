"""Gradient scores: how much of the KL each linear would cause, from one forward and one backward pass.

For a small change ``dy`` of a linear's output, ``KL(p || p + dp) ~ E[(dL/dy . dy)^2] / 2`` with ``L`` the negative
log-likelihood of a token drawn from ``p`` itself: the Fisher information in place of the Hessian. The square is summed
element by element, which leaves out how errors of different channels add up, and needs few samples in return.

``dy`` is that of quantizing the weight and the inputs together. It is computed while gradients flow back, from inputs
that the forward pass keeps for one sequence; of everything else only sums remain. Per scheme that costs one more
matmul for each linear, the share of a forward pass.

Source: the score is that of NVIDIA ModelOpt's ``auto_quantize`` (method "gradient"), with drawn tokens in place of
given ones.

Shape legend: T tokens, O output channels, I input columns, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flashrl_registry.documents import SchemeName
from flashrl_registry.errors import ProfilingError
from flashrl_registry.quality.divergence import Step
from flashrl_registry.quality.fake import fake_input, fake_weight
from flashrl_registry.quality.inputs import QuantizedInputs
from flashrl_registry.quality.loaded import Loaded
from flashrl_registry.quality.places import STACKS

_Given = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Sums:
    """Of one module, over tokens.

    Attributes:
        scores: Scheme to the sum of ``(dL/dy * dy)^2``.
        errors: Scheme to the sum of ``dy^2``.
        power: Sum of ``y^2``.
        peaks: Sum over tokens of the largest input over the inputs' root mean square.
        num_tokens: Tokens.
    """

    scores: dict[SchemeName, float] = field(default_factory=dict)
    errors: dict[SchemeName, float] = field(default_factory=dict)
    power: float = 0.0
    peaks: float = 0.0
    num_tokens: int = 0

    def add(self, scheme: SchemeName, gradient: Tensor, moved: Tensor) -> None:
        """Add one sequence: dL/dy and dy."""
        self.scores[scheme] = self.scores.get(scheme, 0.0) + float((gradient * moved).square().sum())
        self.errors[scheme] = self.errors.get(scheme, 0.0) + float(moved.square().sum())


def gradient_scores(
    loaded: Loaded,
    sequences: Sequence[Tensor],
    schemes: Mapping[str, Sequence[SchemeName]],
    *,
    overrides: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    step: Step | None = None,
) -> dict[str, Sums]:
    """Score modules.

    Args:
        loaded: The bf16 model.
        sequences: Token ids, each of shape (1, T).
        schemes: Linear, or module that holds experts, to the schemes that it can take.
        overrides: Parameters in place of the model's, such as smoothed ones.
        seed: Of the drawn tokens.
        step: Told of each sequence.

    Returns:
        Module to its sums.

    Raises:
        ProfilingError: Logits are not finite.
    """
    sums = {name: Sums() for name in schemes}
    generator = torch.Generator(device=loaded.device).manual_seed(seed)
    handles = [loaded.model.get_input_embeddings().register_forward_hook(_start_gradients)]
    handles += [
        loaded.model.get_submodule(name).register_forward_hook(_Hook(sums[name], list(of)), with_kwargs=True)
        for name, of in schemes.items()
    ]
    try:
        for tokens in sequences:
            ids = tokens.to(loaded.device)
            arguments = {"input_ids": ids, "use_cache": False}
            logits = functional_call(loaded.model, dict(overrides or {}), (), arguments, tie_weights=True).logits
            log_p_TV = torch.log_softmax(logits[0].float(), dim=-1)
            if log_p_TV.isnan().any():
                raise ProfilingError("logits are not finite, so nothing can be scored", hint="are the weights finite?")
            drawn_T1 = torch.multinomial(log_p_TV.detach().exp(), 1, generator=generator)
            (-log_p_TV.gather(1, drawn_T1).sum()).backward()
            if step is not None:
                step("score")
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _start_gradients(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
    """Weights take no gradient, so the graph begins at the embedded tokens."""
    return embedded.requires_grad_(True) if torch.is_grad_enabled() else embedded


class _Hook:
    """Keeps a module's input until its output's gradient arrives."""

    def __init__(self, sums: Sums, schemes: list[SchemeName]) -> None:
        self._sums = sums
        self._schemes = schemes

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        if not output.requires_grad:
            return  # a run of the experts by the score itself
        if isinstance(module, nn.Linear):
            # The weight of now: a caller may have put another in its place until the end of the forward pass.
            inputs, weight_OI = args[0].detach(), module.weight.detach()
            output.register_hook(lambda gradient: self._linear(inputs, weight_OI, gradient))
        else:
            frozen = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
            given = tuple(_detached(value) for value in args), {key: _detached(v) for key, v in kwargs.items()}
            result = output.detach()
            output.register_hook(lambda gradient: self._experts(module, frozen, given, result, gradient))

    def _linear(self, inputs: Tensor, weight_OI: Tensor, gradient: Tensor) -> None:
        inputs_TI, gradient_TO = inputs.flatten(0, -2), gradient.flatten(0, -2)
        with torch.no_grad():
            output_TO = inputs_TI @ weight_OI.T
            self._observe(inputs_TI, output_TO)
            for scheme in self._schemes:
                moved_TO = fake_input(scheme, inputs_TI) @ fake_weight(scheme, weight_OI).T - output_TO
                self._sums.add(scheme, gradient_TO, moved_TO)

    def _experts(
        self, module: nn.Module, parameters: dict[str, Tensor], given: _Given, output: Tensor, gradient: Tensor
    ) -> None:
        args, kwargs = given
        hidden = args[0] if args else kwargs["hidden_states"]
        with torch.no_grad():
            self._observe(hidden.flatten(0, -2), output)
            for scheme in self._schemes:
                fake = {name: fake_weight(scheme, parameters[name]) for name in STACKS}
                with QuantizedInputs(scheme):
                    moved = functional_call(module, {**parameters, **fake}, args, kwargs) - output
                self._sums.add(scheme, gradient, moved)

    def _observe(self, inputs_TI: Tensor, output: Tensor) -> None:
        rms_T = inputs_TI.square().mean(dim=1).sqrt().clamp_(min=torch.finfo(torch.float32).tiny)
        self._sums.power += float(output.square().sum())
        self._sums.peaks += float((inputs_TI.abs().amax(dim=1) / rms_T).sum())
        self._sums.num_tokens += inputs_TI.shape[0]


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
