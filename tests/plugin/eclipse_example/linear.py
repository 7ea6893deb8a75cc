"""A victim: logistic regression on pixels."""

from torch import Tensor, nn

from eclipse.classifiers import Classifier


class Linear(Classifier):
    """One layer on 8x8 blocks; ``head`` is the last layer and ``embed`` what comes before it."""

    def __init__(self, num_classes: int, channels: int = 3, side: int = 32) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten())
        self.head = nn.Linear(channels * 64, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.pool(x - 0.5)
