from typing import Any

import pandas as pd
from lightning.pytorch.loggers import Logger

class SimpleExperiment:
    def __init__(self) -> None: ...
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

class SimpleLogger(Logger):
    def __init__(
        self,
        name: str = "lightning_logs",
        version: int | str | None = None,
        save_dir: str | None = None,
        save_log_on_disk: bool | None = False,
    ) -> None: ...
    @property
    def history(self) -> dict[str, pd.DataFrame]: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int | str | None: ...
    def log_hyperparams(self, params: Any) -> None: ...
    def log_metrics(  # type: ignore[override]  # lightning always passes a step
        self, metrics: dict[str, float], step: int | None
    ) -> None: ...
