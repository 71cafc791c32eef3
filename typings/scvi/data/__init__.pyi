from scvi.data._manager import AnnDataManager as AnnDataManager
