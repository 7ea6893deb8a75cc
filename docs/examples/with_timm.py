"""Train a network of timm with its own augmentations; Purify stands before them, Compensate after.

python with_timm.py photos    # a folder of images, a folder for each class
"""

import sys

import timm
from timm.data import create_dataset, create_transform
from timm.optim import create_optimizer_v2
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from eclipse.transforms import Compensate, Purify

if __name__ == "__main__":  # which the workers of the loader are not
    augment = create_transform(64, is_training=True, auto_augment="rand-m9-mstd0.5", separate=True)
    crop_and_flip, randaugment, to_tensor_and_normalize = augment
    transform = Compose([crop_and_flip, randaugment, Compensate(), to_tensor_and_normalize])
    photos = create_dataset("", sys.argv[1])  # at their own sizes
    data = Purify(cache="kept").dataset(photos, transform=transform)
    network = timm.create_model("resnet10t", num_classes=len(photos.reader.class_to_idx))
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.01)

    for images, labels in DataLoader(data, batch_size=8, shuffle=True, num_workers=2):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.3f}")
