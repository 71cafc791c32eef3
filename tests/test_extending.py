"""The page "Write your own model": its code is a model outside of the package, with all that comes with one."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributions import Normal

from deltavi.errors import DeltaviError, ModelFileError, NotTrainedError, UnknownArgumentError
from deltavi.latent import GaussianEncoder, GaussianState
from deltavi.likelihood import Likelihood, Poisson
from deltavi.model import VAE
from deltavi.module import VAE as VAEModule
from deltavi.testing import BadInputContract, CountContract, ModelContract, small_adata
from tests.model.conftest import QUIET, SETUP, dense

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
MOST_LINES = 60
PERTURBATION = {"control": "control", "perturbation": "stimulated"}


def files() -> dict[str, str]:
    """Python of the page, by the name of the file in its first line."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return dict(blocks)


def imported(name: str) -> ModuleType:
    """A file of the page as a module that can be imported by its name."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(files()[f"{name}.py"], f"{PAGE}:{name}", "exec"), vars(module))
    return module


vamp_vae = imported("vamp_vae")
VampVAE: Any = vamp_vae.VampVAE
TestVampVAE = imported("test_vamp_vae").TestVampVAE
INIT = {"n_hidden": 16, "n_latent": 4}


def fitted(model_class: Any, *, epochs: int = 2, **init: Any) -> Any:
    adata = small_adata()
    model_class.setup_anndata(adata, **SETUP)
    model = model_class(adata, **INIT, **init)
    model.train(max_epochs=epochs, batch_size=32, **QUIET)
    return model


@pytest.fixture(scope="module")
def own() -> Any:
    """A model of the page that tests must not change."""
    return fitted(VampVAE, n_components=6)


def test_the_code_is_short() -> None:
    further = {"kept_vae.py", "feature_vae.py"}
    assert set(files()) == {"vamp_vae.py", "use.py", "test_vamp_vae.py", *further}
    whole = {name: code for name, code in files().items() if name not in further}
    assert sum(len(code.splitlines()) for code in whole.values()) <= MOST_LINES


def test_every_block_of_python_is_run_here() -> None:
    assert PAGE.read_text().count("```python") == len(files())


def test_what_is_kept_and_when_the_prior_is_held(tmp_path: Path) -> None:
    kept_vae: Any = imported("kept_vae").KeptVAE
    adata = small_adata()
    kept_vae.setup_anndata(adata, **SETUP)
    model = kept_vae(adata, n_components=6, **INIT)
    profiles = model.module.prior.profiles
    seen = [profiles.detach().clone()]

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(profiles.detach().clone())

    model.train(max_epochs=8, batch_size=32, callbacks=Watch(), **QUIET)
    held = [torch.equal(before, after) for before, after in itertools.pairwise(seen)]
    assert held == [False] * 6 + [True] * 2
    expected = (dense(adata.X)[model.train_indices] > 0).mean(0)
    np.testing.assert_allclose(model.detection_, expected)
    model.save(tmp_path / "kept")
    np.testing.assert_allclose(kept_vae.load(tmp_path / "kept").detection_, expected)


def test_it_gets_the_contracts() -> None:
    assert issubclass(TestVampVAE, CountContract)
    assert issubclass(TestVampVAE, ModelContract)
    assert issubclass(TestVampVAE, BadInputContract)


# -- the same model as the one of the package ------------------------------------------------------------------


def test_its_weights_and_its_bound_are_those_of_the_package(own: Any) -> None:
    builtin = fitted(VAE, prior="vamp", n_pseudo_inputs=6)
    weights = {name.replace("profiles", "pseudo_inputs"): value for name, value in own.module.state_dict().items()}
    expected = builtin.module.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert bound(own) == bound(builtin)
    # which a standard normal prior would not give
    builtin.module.prior = VAE(builtin.adata, **INIT).module.prior
    assert bound(own) != bound(builtin)


def bound(model: Any) -> float:
    torch.manual_seed(0)
    return float(model.get_elbo())


# -- what comes with a subclass --------------------------------------------------------------------------------


def test_the_use_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    adata, query = small_adata(), small_adata(seed=1)
    query.obs["batch"] = "new"
    code = files()["use.py"].replace("model.train()", "model.train(max_epochs=1, **QUIET)")
    found: dict[str, Any] = {"adata": adata, "query": query, "QUIET": QUIET}
    exec(code, found)
    assert found["stimulated"].n_obs == (adata.obs["condition"] == "control").sum()
    np.testing.assert_array_equal(
        found["again"].get_latent_representation(), found["model"].get_latent_representation()
    )
    assert isinstance(found["mapped"], VampVAE)
    found["mapped"].train(max_epochs=1, batch_size=32, **QUIET)
    assert torch.equal(found["mapped"].module.prior.profiles, found["model"].module.prior.profiles)


@pytest.mark.parametrize(("wrong", "right"), {"n_component": "n_components", "n_latents": "n_latent"}.items())
def test_a_misspelt_setting_is_answered_with_the_nearest(own: Any, wrong: str, right: str) -> None:
    with pytest.raises(UnknownArgumentError, match=rf"VampVAE has no argument '{wrong}'.*Did you mean '{right}'"):
        VampVAE(own.adata, **{wrong: 5})


def test_settings_of_the_base_are_checked(own: Any) -> None:
    with pytest.raises(DeltaviError, match="n_latent"):
        VampVAE(own.adata, n_latent=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_answer_alike(own: Any, copied: Any) -> None:
    again = copied(own)
    assert type(again) is VampVAE
    assert again.module.prior is not own.module.prior
    assert torch.equal(again.module.prior.profiles, own.module.prior.profiles)
    for query in (None, small_adata(seed=1)):
        predicted = [dense(model.predict_perturbation(query, **PERTURBATION).X) for model in (again, own)]
        np.testing.assert_array_equal(*predicted)


def test_a_file_is_of_its_class(own: Any, tmp_path: Path) -> None:
    own.save(tmp_path / "own")
    fitted(VAE, epochs=1).save(tmp_path / "vae")
    with pytest.raises(ModelFileError, match="holds a VampVAE; load it with that class"):
        VAE.load(tmp_path / "own")
    with pytest.raises(ModelFileError, match="holds a VAE; load it with that class"):
        VampVAE.load(tmp_path / "vae")
    # a class of the same name with another module
    with pytest.raises(ModelFileError, match="n_components"):
        type("VampVAE", (VAE,), {}).load(tmp_path / "own")


def test_scvi_tools_has_no_such_model(own: Any, tmp_path: Path) -> None:
    with pytest.raises(DeltaviError, match="VampVAE has no counterpart"):
        own.export_scvi(tmp_path / "scvi")


class Backwards(VampVAE):  # type: ignore[misc]
    """A method that is replaced, and hands on whatever it is given."""

    def get_latent_representation(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_latent_representation(*args, **kwargs)[::-1]


def test_a_method_may_hand_on_all_arguments(own: Any) -> None:
    model = copy.deepcopy(own)
    model.__class__ = Backwards
    query, expected = small_adata(seed=1), own.get_latent_representation(small_adata(seed=1))[::-1]
    np.testing.assert_array_equal(model.get_latent_representation(query), expected)
    np.testing.assert_array_equal(model.get_latent_representation(adata=query, batch_size=7), expected)
    with pytest.raises(UnknownArgumentError, match=r"no argument 'batchsize'.*Did you mean 'batch_size'"):
        model.get_latent_representation(query, batchsize=7)
    model.is_trained_ = False
    with pytest.raises(NotTrainedError):
        model.get_latent_representation(query)


class Residual(torch.nn.Module):
    """An encoder that adds a linear map to that of the package."""

    def __init__(self, encoder: GaussianEncoder, n_input: int, n_latent: int) -> None:
        super().__init__()
        self.encoder, self.linear = encoder, torch.nn.Linear(n_input, n_latent)

    def forward(self, x: Tensor, *covariates: Tensor, n_samples: int = 1) -> GaussianState:
        posterior = self.encoder(x, *covariates).posterior
        moved = Normal(posterior.loc + self.linear(x), posterior.scale)
        sample = moved.rsample() if n_samples == 1 else moved.rsample((n_samples,))
        return GaussianState(sample=sample, posterior=moved)


class OtherParts(VAEModule):
    def __init__(self, n_input: int, **settings: Any) -> None:
        super().__init__(n_input, **settings)
        self.z_encoder = Residual(self.z_encoder, n_input, self.n_latent)

    def decode(self, *args: Any, **kwargs: Any) -> Likelihood:
        return Poisson(super().decode(*args, **kwargs).mean)


class OtherVAE(VAE):
    _module_cls = OtherParts


def test_encoder_and_likelihood_can_be_replaced(tmp_path: Path) -> None:
    model = fitted(OtherVAE, gene_likelihood="nb")
    model.save(tmp_path / "model")
    loaded, query = OtherVAE.load(tmp_path / "model"), small_adata(seed=1)
    predicted = [dense(one.predict_perturbation(query, **PERTURBATION).X) for one in (model, loaded)]
    np.testing.assert_array_equal(*predicted)
    latent = [one.get_latent_representation(query) for one in (model, loaded)]
    np.testing.assert_allclose(*latent, atol=1e-5)
    plain = fitted(VAE, gene_likelihood="nb")
    assert not np.allclose(latent[0], plain.get_latent_representation(query), atol=0.1)
    assert bound(model) != bound(plain)
    assert float(model.get_marginal_ll(n_mc_samples=50)) < 0


# -- from outside ----------------------------------------------------------------------------------------------

BROKEN = """
class Broken(VampVAE):
    def get_latent_representation(self, *args, **kwargs):
        return super().get_latent_representation(*args, **kwargs) + torch.rand(1).item()


TestBroken = contract_of(SmallModel(name="Broken", model_class=Broken, init=SMALL))
"""


def test_its_tests_are_found_outside_of_the_package(tmp_path: Path) -> None:
    """As an author would run them: two files in a folder of their own; a test that fails shows its values."""
    for name in ("vamp_vae.py", "test_vamp_vae.py"):
        (tmp_path / name).write_text(files()[name])
    with (tmp_path / "test_vamp_vae.py").open("a") as file:
        file.write(f"import torch\n\n{BROKEN}")
    chosen = "test_latent_representation or row14 or scvi_names"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, str(tmp_path)]
    # options and measurements of the tests around it are not those of a stranger
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))}
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
    assert re.match(r"1 failed, 5 passed", done.stdout.splitlines()[-1]), done.stdout
    assert "FAILED test_vamp_vae.py::TestBroken::test_latent_representation" in done.stdout


def test_a_failure_of_the_contract_shows_its_values(own: Any) -> None:
    own = copy.deepcopy(own)
    own.history_ = {"train_loss": own.history["train_loss"]}
    with pytest.raises(AssertionError, match="'elbo_train'"):
        ModelContract().test_training_keeps_a_history_under_scvi_names((own, own.adata))
