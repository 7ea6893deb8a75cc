"""What a victim is made of, to be imported from ``eclipse.classifiers``."""

from eclipse.classifiers.classifier import CLASSIFIERS as CLASSIFIERS
from eclipse.classifiers.classifier import Classifier as Classifier
from eclipse.classifiers.classifier import make_classifier as make_classifier
from eclipse.classifiers.fit import RECIPES as RECIPES
from eclipse.classifiers.fit import Recipe as Recipe
from eclipse.classifiers.fit import accuracy as accuracy
from eclipse.classifiers.fit import make_optimizer as make_optimizer
from eclipse.classifiers.resnet import BasicBlock as BasicBlock
from eclipse.errors import EclipseError as EclipseError
