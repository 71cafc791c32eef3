from scvi.data.fields._arraylike_field import CategoricalJointObsField as CategoricalJointObsField
from scvi.data.fields._arraylike_field import NumericalJointObsField as NumericalJointObsField
from scvi.data.fields._base_field import BaseAnnDataField as BaseAnnDataField
from scvi.data.fields._dataframe_field import CategoricalObsField as CategoricalObsField
from scvi.data.fields._dataframe_field import NumericalObsField as NumericalObsField
from scvi.data.fields._layer_field import LayerField as LayerField
