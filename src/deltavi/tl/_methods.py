"""Methods to evaluate: models with their settings, and functions that predict cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias

from anndata import AnnData
from scvi.model.base import BaseModelClass

from deltavi import _keys
from deltavi._entries import choice, keywords_of, known_keywords
from deltavi._errors import DeltaviError, examples
from deltavi._random import isolated_randomness
from deltavi._reading import known_arguments, read_all
from deltavi._types import Rows
from deltavi.model import PPCA, SCGEN, VAE
from deltavi.model.own_response import held_out_by_caller
from deltavi.model.request import check_options
from deltavi.model.routes import ROUTES
from deltavi.model.verbs import READERS
from deltavi.perturbation import BASELINES, SPLIT_HALF
from deltavi.perturbation.estimators import ESTIMATORS
from deltavi.pp.prepare import TOTAL_COUNTS
from deltavi.tl._certainty import evidence_of
from deltavi.tl._returned import checked_prediction

if TYPE_CHECKING:
    from deltavi.tl._experiment import Experiment

Predictor: TypeAlias = Callable[..., Any]


@known_arguments
@dataclass(frozen=True, eq=False)
class Method:
    """A model with the arguments to make it, train it and predict with it.

    Parameters
    ----------
    model_class
        A model of :mod:`deltavi.model` that predicts perturbations.
    model_kwargs, train_kwargs, setup_kwargs
        Further arguments of the model, of ``train`` and of ``setup_anndata``, such as ``{"batch_key": "donor"}``.
    predict
        Name of a setting -> arguments of ``predict_perturbation``. One fitted model is used for all of them, and each
        has a row of its own: the name of the method, a comma, and that of the setting; an empty name adds nothing.

    Raises
    ------
    DeltaviError
        If the model cannot predict perturbations, or `predict` is empty.
    UnknownArgumentError
        If a setting of `predict`, or `setup_kwargs`, names an argument that does not exist.

    Examples
    --------
    >>> from deltavi.model import SCGEN
    >>> method = Method(SCGEN, predict={"": {}, "paired shift": {"shift": "paired"}})
    >>> method.rows("SCGEN")
    ['SCGEN', 'SCGEN, paired shift']
    """

    model_class: type[Any]
    model_kwargs: Mapping[str, object] = field(default_factory=dict)
    train_kwargs: Mapping[str, object] = field(default_factory=dict)
    predict: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"": {}})
    setup_kwargs: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.model_class, BaseModelClass):
            raise _made_already("model_class", self.model_class)
        if not hasattr(self.model_class, "predict_perturbation"):
            name = getattr(self.model_class, "__name__", repr(self.model_class))
            raise DeltaviError(
                f"{name} has no predict_perturbation: it cannot be evaluated. Pass SCGEN, VAE or another."
            )
        if not isinstance(self.predict, Mapping) or not self.predict:
            raise DeltaviError("predict must map at least one name to its arguments; {'': {}} is the plain prediction.")
        settings = {f"predict[{name!r}]": setting for name, setting in self.predict.items()}
        for name in ("model_kwargs", "train_kwargs", "setup_kwargs"):
            settings[name] = getattr(self, name)
        for name, value in settings.items():
            if not isinstance(value, Mapping):
                raise DeltaviError(f"{name} must map names of arguments to their values, not {value!r}.")
        self._require_known_arguments()

    def _require_known_arguments(self) -> None:
        """Raise before anything is trained where a prediction or setup has no such argument."""
        given = [("setup_anndata", self.setup_kwargs)]
        given += [("predict_perturbation", setting) for setting in self.predict.values()]
        for verb, arguments in given:
            # a method may pass on what it does not read itself
            taken_by = [getattr(base, verb) for base in self.model_class.__mro__ if verb in vars(base)]
            known_keywords(arguments, keywords_of(*taken_by), among=f"{self.model_class.__name__}.{verb}")
        for setting in self.predict.values():
            _check_values(setting)
        asked = {name for setting in self.predict.values() for name in setting} & {"adata", "control", "perturbation"}
        if asked:
            raise DeltaviError(
                f"predict holds {examples(sorted(asked))}, which the evaluation sets. Ask for other conditions with "
                "its own control and perturbation."
            )
        if any(setting.get("path") is not None for setting in self.predict.values()):
            raise DeltaviError("predict holds 'path': predictions are scored in memory. Leave it out.")

    def rows(self, name: str) -> list[str]:
        """Names of the rows that this method gives under the name `name`."""
        return [f"{name}, {setting}" if setting else name for setting in self.predict]

    def fit(self, train: AnnData, *, condition_key: str, labels_key: str, seed: int) -> Any:
        """Train the model on `train` (log1p CP10k in X, counts in a layer); `train` gets columns of scvi-tools."""
        setup: dict[str, object] = {"condition_key": condition_key, "labels_key": labels_key}
        if not self._reads_logs:
            setup |= {"layer": _keys.LAYER_COUNTS, "size_factor_key": TOTAL_COUNTS}
        self.model_class.setup_anndata(train, **{**setup, **self.setup_kwargs})
        model = self.model_class(train, **{"seed": seed, **self.model_kwargs})
        model.train(**self.train_kwargs)
        return model

    @property
    def _reads_logs(self) -> bool:
        """True if the model reads log1p CP10k rather than counts."""
        return issubclass(self.model_class, PPCA) or self.model_kwargs.get("gene_likelihood") == "normal"


def _check_values(setting: Mapping[str, Any]) -> None:
    """Raise on arguments of a prediction that no model has, before training rather than after."""
    read_all(READERS, dict(setting))
    defaults = {name: known.default for name, known in signature(VAE.predict_perturbation).parameters.items()}
    check_options(**{name: setting.get(name, defaults[name]) for name in signature(check_options).parameters})
    shift = setting.get("shift", defaults["shift"])
    if isinstance(shift, str):
        choice("shift", shift, (*ESTIMATORS, *ROUTES))


Given: TypeAlias = type[Any] | Method | Predictor


def resolve_methods(given: object) -> dict[str, Method | Predictor]:
    """Methods by name; their rows have names that nothing else has.

    Raises
    ------
    DeltaviError
        If a method is no model, Method or function, has no name, or has that of another one, a baseline or the ceiling.
    """
    if given is None:
        given = SCGEN
    named = dict(given) if isinstance(given, Mapping) else _named(_listed(given))
    if not named:
        raise DeltaviError("methods is empty; pass a model such as SCGEN, or None for it.")
    methods = {str(name): as_method(name, method) for name, method in named.items()}
    _check_rows([row for name, method in methods.items() for row in rows_of(name, method)])
    return methods


def _listed(given: object) -> list[object]:
    """The methods one by one, whether one or several were given."""
    if isinstance(given, Iterable) and not isinstance(given, str | type | Method):
        return list(given)
    return [given]


def _named(methods: list[object]) -> dict[str, object]:
    names = [_name_of(method) for method in methods]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DeltaviError(
            f"{len(repeated)} names occur twice ({examples(repeated)}); pass methods={{'name': method}}."
        )
    return dict(zip(names, methods, strict=True))


def _name_of(method: object) -> str:
    named = method.model_class if isinstance(method, Method) else method
    name = getattr(named, "__name__", "")
    if callable(method) and name in ("", "<lambda>"):
        raise DeltaviError(f"{method!r} has no name of its own; pass methods={{'name': function}}.")
    return str(name)


def as_method(name: object, given: object) -> Method | Predictor:
    """A Method for a model class; Methods and functions as they are."""
    if isinstance(given, type):
        return Method(given)
    if isinstance(given, Method):
        return given
    if callable(given):
        function: Predictor = given
        _require_signature(function, name)
        return function
    if isinstance(given, BaseModelClass):
        raise _made_already(f"method {name!r}" if name else "methods", given)
    problem = f"method {name!r} is {given!r}" if name else f"{given!r} is no method"
    raise DeltaviError(f"{problem}; pass a model class, a Method, or a function of (train, query).")


def _made_already(name: str, model: object) -> DeltaviError:
    """Error for a model where its class is meant."""
    made = type(model).__name__
    return DeltaviError(
        f"{name} is a model that was made already, of the class {made}. Pass the class, {made}, or Method({made}, ...) "
        "with its settings: it is trained anew without the cells held out, which a trained model has seen."
    )


def _require_signature(function: Predictor, name: object) -> None:
    """Raise where a function cannot be called as methods are."""
    told = dict.fromkeys(("control", "perturbation", "condition_key", "labels_key", "seed"), "")
    try:
        found = signature(function)
    except (TypeError, ValueError):  # of compiled functions
        return
    try:
        found.bind("train", "query", **told)
    except TypeError as error:
        raise DeltaviError(
            f"method {name!r} takes {found}, but is called with (train, query, {', '.join(map('{}='.format, told))}): "
            f"{error}. Let it take these, or **_ for those that it does not need."
        ) from None


def rows_of(name: str, method: Method | Predictor) -> list[str]:
    """Names of the rows of a method."""
    return method.rows(name) if isinstance(method, Method) else [name]


def _check_rows(rows: list[str]) -> None:
    taken = [row for row in rows if row in {*BASELINES, SPLIT_HALF}]
    if taken:
        raise DeltaviError(f"{examples(taken)} is the name of a baseline or of the ceiling; name the method otherwise.")
    repeated = sorted({row for row in rows if rows.count(row) > 1})
    if repeated:
        raise DeltaviError(f"{len(repeated)} rows would have the same name ({examples(repeated)}); rename a setting.")
    if "" in rows:
        raise DeltaviError("A method has an empty name; give it one.")


@dataclass(frozen=True, eq=False)
class Conditions:
    """Arguments of a method beside the cells."""

    control: str
    perturbation: str
    condition_key: str
    labels_key: str

    def as_dict(self) -> dict[str, str]:
        """As arguments of predictors and baselines."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted cells of one row, (n_query, n_genes), the processor seconds they took, and their certainty."""

    name: str
    matrix: Rows
    seconds: float
    evidence: AnnData | None = None


def run_method(
    name: str, method: Method | Predictor, cells: Experiment, conditions: Conditions, seed: int
) -> Iterator[Prediction]:
    """Predict the query with a method, which gets copies of its own; one prediction per row.

    Raises
    ------
    InputDataError, GeneMatchError
        If a prediction has the wrong shape or genes, or holds NaN.
    """
    if isinstance(method, Method):
        predictions = _run_model(name, method, cells, conditions, seed)
    else:
        predictions = _run_function(name, method, cells, conditions, seed)
    for row, predicted, seconds in predictions:
        yield Prediction(row, checked_prediction(predicted, cells.query, row), seconds, evidence_of(predicted))


def _run_model(
    name: str, method: Method, cells: Experiment, conditions: Conditions, seed: int
) -> Iterator[tuple[str, Any, float]]:
    ask = {"control": conditions.control, "perturbation": conditions.perturbation, "seed": seed}
    keys = {"condition_key": conditions.condition_key, "labels_key": conditions.labels_key}
    started, train = time.process_time(), cells.train.copy()
    silent = replace(method, train_kwargs={"enable_progress_bar": False, **method.train_kwargs})
    model = silent.fit(train, seed=seed, **keys)
    fitting = time.process_time() - started
    try:
        for row, setting in zip(method.rows(name), method.predict.values(), strict=True):
            started = time.process_time()
            with held_out_by_caller():
                predicted = model.predict_perturbation(cells.query.copy(), **{**ask, **setting})
            yield row, predicted, fitting + time.process_time() - started
    finally:
        model.deregister_manager(train)  # scvi-tools would keep the cells in memory


def _run_function(
    name: str, function: Predictor, cells: Experiment, conditions: Conditions, seed: int
) -> Iterator[tuple[str, Any, float]]:
    started = time.process_time()
    with isolated_randomness(seed):
        predicted = function(cells.train.copy(), cells.query.copy(), **conditions.as_dict(), seed=seed)
    yield name, predicted, time.process_time() - started
