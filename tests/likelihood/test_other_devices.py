"""The way of devices that Python does not wait for, walked on the CPU."""

from __future__ import annotations

import pytest
import torch

from deltavi.likelihood import _at_nonzeros, _log_prob
from tests.likelihood.count_inputs import SUMS, assert_same, draw, gradients

pytestmark = pytest.mark.filterwarnings("ignore:The value argument must be within the support:UserWarning")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Devices whose numbers somebody wanted to look at; none was allowed to."""
    devices: list[torch.device] = []

    def refused(values: torch.Tensor) -> bool:
        devices.append(values.device)
        return False

    for module in (_at_nonzeros, _log_prob):
        monkeypatch.setattr(module, "answers_at_once", refused)
    return devices


@pytest.mark.parametrize("weigh", list(SUMS))
@pytest.mark.parametrize("theta", ["row", "batch", "cell"])
@pytest.mark.parametrize(("kind", "logit"), [("zinb", 0.0), ("zinb", -200.0), ("nb", 0.0)])
def test_equals_scvi(asked: list[torch.device], kind: str, logit: float, theta: str, weigh: str) -> None:
    inputs = draw(kind, theta=theta, logit=logit).leaves()
    found, expected = inputs.likelihood.log_prob(inputs.x), inputs.scvi.log_prob(inputs.x).sum(-1)
    assert_same({"value": found}, {"value": expected}, 1e-12)
    assert_same(gradients(inputs, found, weigh), gradients(inputs, expected, weigh), 1e-12)
    assert asked


def test_nothing_is_compared_on_the_way(asked: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw("zinb").leaves()
    nonzeros = _log_prob.Nonzeros.of(inputs.x)

    def waited(*_: object) -> None:
        raise AssertionError("Python waited for a number")

    for name in ("__bool__", "__float__", "item"):
        monkeypatch.setattr(torch.Tensor, name, waited)
    (-inputs.likelihood.log_prob(inputs.x, nonzeros).mean()).backward()
    assert asked
