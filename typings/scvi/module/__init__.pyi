from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

class Classifier(nn.Module):
    def __init__(
        self,
        n_input: int,
        n_hidden: int = 128,
        n_labels: int = 5,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        logits: bool = False,
        use_batch_norm: bool = True,
        use_layer_norm: bool = False,
        activation_fn: Callable[[], nn.Module] = ...,
        **kwargs: Any,
    ) -> None: ...
    def forward(self, x: Tensor) -> Tensor: ...
