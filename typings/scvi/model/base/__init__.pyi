from scvi.model.base._archesmixin import ArchesMixin as ArchesMixin
from scvi.model.base._base_model import BaseModelClass as BaseModelClass
from scvi.model.base._differential import DifferentialComputation as DifferentialComputation
from scvi.model.base._rnamixin import RNASeqMixin as RNASeqMixin
from scvi.model.base._training_mixin import UnsupervisedTrainingMixin as UnsupervisedTrainingMixin
from scvi.model.base._vaemixin import VAEMixin as VAEMixin
