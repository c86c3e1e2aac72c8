from busseg.data import find_samples as find_samples
from busseg.data.sample_images import samples as samples
from busseg.experiments.crossval import cross_validate as cross_validate
from busseg.experiments.score import score_model as evaluate
from busseg.experiments.train import train_model as train
from busseg.inference.prediction import Failure as Failure
from busseg.inference.prediction import Prediction as Prediction
from busseg.inference.predictor import Predictor as Predictor
from busseg.models.classifier import build_classifier as build_classifier
from busseg.models.unet import build_unet as build_unet
from busseg.training.recipe import Recipe as Recipe
from busseg.training.recipe import load_recipe as load_recipe

__version__: str
__all__ = [
    "Failure",
    "Prediction",
    "Predictor",
    "Recipe",
    "build_classifier",
    "build_unet",
    "cross_validate",
    "evaluate",
    "find_samples",
    "load_recipe",
    "samples",
    "train",
]
