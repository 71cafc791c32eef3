"""Keywords that verbs of models take, those that scvi-tools collects and hands on among them."""

from __future__ import annotations

import inspect
from functools import cache

from scvi.dataloaders import AnnDataLoader
from scvi.model.base import DifferentialComputation

from deltavi._entries import init_keywords, keywords_of

# What a verb that collects keywords under this name does with them; those of get_elbo and others have no use.
OF_LOADER = "data_loader_kwargs"
OF_WEIGHTING = "importance_weighting_kwargs"
WEIGHTING = ("max_cells", "truncation", "n_mc_samples", "n_mc_samples_per_pass")
# Verbs that hand on what they collect to a function of another name.
HANDS_ON = {"differential_expression": DifferentialComputation.get_bayes_factors}


@cache
def verb_keywords(model_class: type, name: str) -> list[str]:
    """Names that a verb takes by keyword.

    Parameters
    ----------
    model_class
        Class of the model.
    name
        Its verb: each class of the model that has it hands on what it collects to the next.
    """
    found: list[str] = []
    for base in model_class.__mro__:
        if name not in vars(base):
            continue
        verb = vars(base)[name]
        found += keywords_of(verb)
        collects = [p.name for p in inspect.signature(verb).parameters.values() if p.kind is p.VAR_KEYWORD]
        if not collects:
            break
        found += init_keywords(AnnDataLoader) if OF_LOADER in collects else []
        found += WEIGHTING if OF_WEIGHTING in collects else ()
    if name in HANDS_ON:
        found += [*keywords_of(HANDS_ON[name]), "subset_idx"]
    return list(dict.fromkeys(found))
