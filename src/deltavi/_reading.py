"""Arguments read by their names before a function is called: one name has one kind of value everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from deltavi._entries import choice, known_keywords, number, shown, whole_number
from deltavi._errors import UnknownArgumentError, unknown_category

Reader = Callable[[str, object], Any]
Given = ParamSpec("Given")
Result = TypeVar("Result")
Thing = TypeVar("Thing", bound=Callable[..., object])


# -- kinds of entries ------------------------------------------------------------------------------------------


def whole(least: int, most: int | None = None) -> Reader:
    """Reader of whole numbers from `least` to `most`, by default beyond any sensible value."""

    def read(name: str, value: object) -> int:
        return whole_number(name, whole_number(name, value, least=least), most=most)

    return read


def real(*, least: float | None = None, above: float | None = None, most: float | None = None) -> Reader:
    """Reader of finite numbers from `least`, or above `above`, to `most`."""
    return partial(number, least=least, above=above, most=most)


def one_of(*known: str) -> Reader:
    """Reader of one of some names."""
    return partial(choice, known=known)


def setting(*known: str) -> Reader:
    """Reader of one of some names, whose error is that of an unknown category."""

    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise unknown_category(name, value if isinstance(value, str) else shown(value), known, among="the settings")
        return str(value)

    return read


def optional(read: Reader) -> Reader:
    """`read` that also accepts ``None``."""
    return lambda name, value: None if value is None else read(name, value)


def either(word: str, read: Reader) -> Reader:
    """`read` that also accepts `word`."""
    return lambda name, value: value if isinstance(value, str) and value == word else read(name, value)


# -- functions -------------------------------------------------------------------------------------------------


def reads(readers: Mapping[str, Reader]) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Decorator of a function whose arguments are read by `readers`, also those it passes on by keyword."""

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        signature = inspect.signature(function)

        @wraps(function)
        def reading(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            return call(function, read_all(readers, arguments(function, signature, args, kwargs)))

        return reading

    return decorate


def known_arguments(thing: Thing) -> Thing:
    """Decorator of a public function or class, by which errors of unknown arguments name the nearest known one."""
    if isinstance(thing, type):
        thing.__init__ = known_arguments(thing.__init__)  # type: ignore[misc]
        return thing
    signature = inspect.signature(thing)

    @wraps(thing)
    def called(*args: object, **kwargs: object) -> object:
        try:
            return thing(*args, **kwargs)
        except TypeError:
            # errors of the function itself are raised unchanged
            arguments(thing, signature, args, kwargs)
            raise

    return called  # type: ignore[return-value]


def call(function: Callable[..., Result], given: Mapping[str, object]) -> Result:
    """`function` of the arguments `given` by name."""
    return function(**given)


def read_all(readers: Mapping[str, Reader], given: Mapping[str, object]) -> dict[str, Any]:
    """Read the arguments that `readers` name."""
    return {name: readers[name](name, value) if name in readers else value for name, value in given.items()}


def arguments(
    function: Callable[..., object], signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Arguments of a call of `function` by name, without defaults.

    Raises
    ------
    UnknownArgumentError
        If the function has no such argument, or lacks one.
    """
    called = function.__qualname__.removesuffix(".__init__")
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        known = [name for name in signature.parameters if name != "self"]
        known_keywords(kwargs, known, among=called)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise UnknownArgumentError(f"{called}: {error}.") from None
    collected = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    given = {name: value for name, value in bound.items() if name != collected}
    return {**given, **bound.get(collected or "", {})}
