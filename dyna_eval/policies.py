"""Growth policies that other packages bring: a class of parameters each, found by its entry point.

A package derives from `PolicyParameters` and names the class in its metadata, under the name that sweep files
are to use:

    [project.entry-points."dyna_eval.policies"]
    my_policy = "my_package:MyPolicy"

The class is imported wherever a sweep file is read, so its module must not import torch; what `policy`
returns is made on a worker. docs/growth-policy.md is the guide.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, final

from pydantic import ConfigDict, create_model, model_validator

from dyna_eval.errors import PolicyError, first_line
from dyna_eval.jobs import PACKAGE, Configuration, Method, Params
from dyna_eval.measurements import Calibration
from dyna_eval.methods import METHODS, MethodParameters
from dyna_eval.mistakes import nearest, shown, unknown

GROUP = "dyna_eval.policies"

_RESERVED = frozenset({PACKAGE, "label", "method", "needs_draft", "zip"})


class PolicyParameters(MethodParameters):
    """The parameters of a growth policy, as pydantic fields: whole numbers, numbers, booleans or texts.

    What the fields' bounds do not say, a validator may: its ValueError is shown with the file's line. Two
    rows with equal parameters are one; their package, its version and its source are part of every result's
    identity.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    @abstractmethod
    def policy(self, calibration: Calibration) -> object:
        """Return a new `dyna_eval_workers.growth.GrowthPolicy` with these parameters.

        `calibration` is what the pair's passes were found to cost on the worker.
        """

    @final
    def resolved(self) -> Params:
        return {**self.model_dump(), PACKAGE: self.package}

    @model_validator(mode="after")
    def _holds_plain_values(self) -> PolicyParameters:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None and type(value) not in (bool, int, float, str):
                raise ValueError(f"has a parameter {name!r} that is neither number, boolean nor text")
        return self


def method_names() -> tuple[str, ...]:
    """Return the names that a sweep file may use here: dyna-eval's own methods, then those of packages."""
    return (*METHODS, *sorted(external_names() - set(METHODS)))


def external_names() -> frozenset[str]:
    """Return the names of all entry points, also of those that cannot be used."""
    return frozenset(_entry_points())


@cache
def parameters_of(method: str) -> type[MethodParameters]:
    """Return a method's parameters.

    Raises PolicyError where no method of that name is installed, its package cannot be imported, or the name
    stands for more than one.
    """
    points = _entry_points().get(method, ())
    if not points and method in METHODS:
        return METHODS[Method(method)]
    if not points:
        raise PolicyError(_unknown(method))
    origins = [*(["dyna-eval itself"] if method in METHODS else []), *sorted(map(_distribution, points))]
    if len(origins) > 1:
        raise PolicyError(
            f"method {method!r} is brought by {' and by '.join(origins)}; uninstall all but one of them"
        )
    return _loaded(points[0])


def configured(configuration: Configuration) -> MethodParameters:
    """Return the parameters of a configuration.

    Raises PolicyError where its policy is not installed here, or not in the version that it was made for.
    """
    method, params = configuration.method, dict(configuration.params)
    wanted = params.pop(PACKAGE, None) if method.is_external else None
    try:
        model = parameters_of(method)
    except PolicyError as error:
        raise PolicyError(f"{error} (needed: {wanted})" if wanted else str(error)) from error
    if model.package != wanted:
        raise PolicyError(
            f"method {method.value!r} is to be that of {wanted}, but installed here is {model.package};"
            " install that version, or submit the sweep file again"
        )
    return model.model_validate(params)


def _unknown(method: str) -> str:
    names = method_names()
    if nearest(method, names):
        return unknown("method", method, names)
    return (
        f"unknown method {shown(method)}; installed: {', '.join(names)};"
        " one of another package has to be installed"
    )


@cache
def _entry_points() -> Mapping[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _loaded(point: EntryPoint) -> type[MethodParameters]:
    """Import an entry point's class, and return it with its name and origin."""
    whose = f"method {point.name!r} of package {_distribution(point)}"
    try:
        method, given = Method(point.name), point.load()
    except Exception as error:  # whatever a foreign module may raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise PolicyError(f"{whose} cannot be imported: {reason}; mend or uninstall it") from error
    if not (isinstance(given, type) and issubclass(given, PolicyParameters)):
        raise PolicyError(f"{whose} is not a subclass of {__name__}.PolicyParameters; mend or uninstall it")
    if inspect.isabstract(given):
        raise PolicyError(f"{whose} does not say how to make its `policy`; mend or uninstall it")
    if taken := sorted(_RESERVED & set(given.model_fields)):
        raise PolicyError(f"{whose} has a parameter {taken[0]!r}, a name that is taken; rename it")
    loaded: Any = create_model(given.__name__, __base__=given, __module__=given.__module__)
    loaded.__doc__ = given.__doc__
    loaded.method = method
    loaded.package = f"{_distribution(point)} {_source_digest(point.module)[:12]}"
    model: type[MethodParameters] = loaded
    return model


def _source_digest(module: str) -> str:
    """Return the SHA-256 of the Python files of the package, or the file, that a module belongs to.

    A version is easily forgotten while a policy is worked on; results of other code must not mix with these.
    """
    root = sys.modules[module.partition(".")[0]]
    if root.__file__ is None:  # a namespace, which is shared with others
        root = sys.modules[module]
    file = Path(root.__file__ or "")
    files = sorted(file.parent.rglob("*.py")) if hasattr(root, "__path__") else [file]
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(file.parent).as_posix()}\0".encode())
        content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()
