import pytest

from busseg.evaluation.scoring import evaluate
from busseg.inference.predictor import Predictor


@pytest.fixture(scope="session")
def predictor(echo_model):
    return Predictor(echo_model)


@pytest.fixture(scope="session")
def parts(phantom_samples):
    return {"validation": phantom_samples[:12:4], "test": phantom_samples[1::6]}


@pytest.fixture(scope="session")
def evaluated(predictor, parts, tmp_path_factory):
    """An evaluation of phantoms: its folder, to be read only, and what `evaluate` returned."""
    out = tmp_path_factory.mktemp("evaluations") / "phantoms"
    return out, *evaluate(predictor, parts, out, fold=3, model="echo", data="phantoms")
