"""Train on torchvision's ImageFolder; Purify and Compensate are transforms among others.

python image_folder.py photos    # a folder of images, a folder for each class
"""

import sys

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from eclipse.transforms import Compensate, Purify

transform = v2.Compose(
    [
        v2.Resize(72),
        v2.CenterCrop(64),
        Purify(cache="kept"),  # of each image once: before all that is random
        v2.RandomHorizontalFlip(),
        Compensate(),  # before normalization; neither of the two in the transforms for testing
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)
if __name__ == "__main__":  # which the workers of the loader are not
    data = ImageFolder(sys.argv[1], transform)
    network = resnet18(num_classes=len(data.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    for images, labels in DataLoader(data, batch_size=8, shuffle=True, num_workers=2):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.3f}")
