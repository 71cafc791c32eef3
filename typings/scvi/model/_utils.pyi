import numpy as np
from scvi.data import AnnDataManager

def _init_library_size(adata_manager: AnnDataManager, n_batch: int) -> tuple[np.ndarray, np.ndarray]: ...
