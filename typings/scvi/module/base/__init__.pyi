from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

_P = ParamSpec("_P")
_R = TypeVar("_R")

def auto_move_data(fn: Callable[_P, _R]) -> Callable[_P, _R]: ...

@dataclass
class LossOutput:
    # given one by one or as tensors; afterwards the loss is a tensor and the others are dictionaries
    loss: Any
    reconstruction_loss: Any = None
    kl_local: Any = None
    kl_global: Any = None
    classification_loss: Any = None
    logits: Tensor | None = None
    true_labels: Tensor | None = None
    extra_metrics: dict[str, Tensor] = field(default_factory=dict)
    n_obs_minibatch: int | None = None
    reconstruction_loss_sum: Tensor = ...
    kl_local_sum: Tensor = ...
    kl_global_sum: Tensor = ...

    @property
    def extra_metrics_keys(self) -> Iterable[str]: ...

class BaseModuleClass(nn.Module):
    def __init__(self) -> None: ...
    @property
    def device(self) -> torch.device: ...
    # what was inferred, what is generated and, unless it is left out, the loss
    def forward(
        self,
        tensors: dict[str, Tensor],
        get_inference_input_kwargs: dict[str, Any] | None = None,
        get_generative_input_kwargs: dict[str, Any] | None = None,
        inference_kwargs: dict[str, Any] | None = None,
        generative_kwargs: dict[str, Any] | None = None,
        loss_kwargs: dict[str, Any] | None = None,
        compute_loss: bool = True,
    ) -> tuple[Any, ...]: ...
    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]: ...
    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]: ...
    def inference(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...
    def generative(self, *args: Any, **kwargs: Any) -> dict[str, Any]: ...
    def loss(self, *args: Any, **kwargs: Any) -> LossOutput: ...
    def sample(self, *args: Any, **kwargs: Any) -> Any: ...
