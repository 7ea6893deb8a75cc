"""Layers for training pipelines: purify images where they are used, and the compensation."""

from eclipse.purification.compensation import Compensate as Compensate
from eclipse.transforms.purify import PurifiedDataset as PurifiedDataset
from eclipse.transforms.purify import Purify as Purify

__all__ = ["Compensate", "PurifiedDataset", "Purify"]
