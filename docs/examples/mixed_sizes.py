"""Train on images of mixed sizes in plain torch: purified once, then cropped and compensated anew in each epoch.

python mixed_sizes.py photos    # a folder of images, a folder for each class
"""

import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from eclipse import open_source
from eclipse.transforms import Compensate, Purify

SIDE = 48


class Photos(torch.utils.data.Dataset):
    """The images of a folder, uint8 (3, H, W), each of its own size."""

    def __init__(self, folder):
        self.source = open_source(folder, longest=64)  # larger than this they are not needed below
        self.rows = list(self.source.labelled())  # as encoded files

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return torch.from_numpy(self.rows[i].picture().rgb), self.rows[i].label


def random_crop(image):
    """A square of the image, float in [0, 1]; smaller images are enlarged first."""
    shorter = min(image.shape[1:])
    image = F.interpolate(image[None] / 255, scale_factor=max(1, (SIDE + 0.5) / shorter), mode="bilinear")[0]
    top, left = (int(torch.randint(length - SIDE + 1, ())) for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


if __name__ == "__main__":  # which the workers of the loader are not
    photos = Photos(sys.argv[1])
    data = Purify(cache="kept").dataset(photos, transform=random_crop)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(photos.source.class_names))),
    )
    optimizer = torch.optim.Adam(network.parameters())
    compensate = Compensate()  # on whole batches, where it costs least

    for images, labels in DataLoader(data, batch_size=8, shuffle=True, num_workers=2):
        loss = F.cross_entropy(network((compensate(images) - 0.5) / 0.25), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.3f}")
