"""Train with Lightning: images are purified in the workers, and compensated on the device of the network.

python with_lightning.py photos    # a folder of images, a folder for each class
"""

import sys

import lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from eclipse import open_source
from eclipse.transforms import Compensate, Purify


class Network(lightning.LightningModule):
    """A small network; Compensate is a module, and used in training steps alone."""

    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)),
        )
        self.compensate = Compensate()

    def training_step(self, batch, number):
        images, labels = self.compensate(batch)  # a sample (images, labels); uint8 stays uint8
        return F.cross_entropy(self.layers((images / 255 - 0.5) / 0.25), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


if __name__ == "__main__":  # which the workers of the loader are not
    photos = open_source(sys.argv[1], side=64)  # squares of 64 pixels from the middle
    rows = [(torch.from_numpy(row.picture().rgb), row.label) for row in photos.labelled()]
    data = Purify(cache="kept").dataset(rows)
    trainer = lightning.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
    trainer.fit(Network(len(photos.class_names)), DataLoader(data, batch_size=8, shuffle=True, num_workers=2))
