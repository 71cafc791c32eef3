"""What the public functions of the data module promise in their signatures and their imports."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from deltavi.datasets import kang, simulate_perturbation, simulate_screen
from deltavi.pp import highly_variable_genes


@pytest.mark.parametrize(
    "function", [kang, highly_variable_genes, simulate_perturbation, simulate_screen], ids=lambda f: f.__name__
)
class TestSignature:
    def test_at_most_one_positional_parameter(self, function):
        parameters = inspect.signature(function).parameters.values()
        assert sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters) <= 1

    def test_every_parameter_is_documented(self, function):
        text = inspect.getdoc(function).split("Parameters\n")[1].split("Returns\n")[0]
        names = {name.strip() for line in re.findall(r"^(\w[\w, ]*)$", text, re.MULTILINE) for name in line.split(",")}
        assert names == set(inspect.signature(function).parameters)

    def test_result_and_errors_are_documented(self, function):
        assert {"Returns\n", "Raises\n"} <= set(
            re.findall(r"^(?:Returns|Raises)\n", inspect.getdoc(function), re.MULTILINE)
        )


def test_import_is_silent_and_downloads_nothing():
    code = "import sys, deltavi.datasets; print('pooch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "False"
    assert finished.stderr == ""
