"""Two samples: whether suspicious and trusted images can be told apart at all."""

import numpy as np

from eclipse.detectors.detector import Detector, Finding
from eclipse.detectors.evidence import Evidence, ridge
from eclipse.detectors.features import color, spectrum


class TwoSample(Detector):
    """Whether a linear model tells suspicious from trusted images by spectrum and color.

    It says that they are different, and not that they are poisoned: another camera or encoder is different, too.
    """

    title = "suspicious and trusted images are different"
    needs = frozenset({"trusted"})
    implicates = False

    def examine(self, evidence: Evidence) -> Finding:
        """Read which set held-out images come from; as many of either."""
        assert evidence.trusted is not None
        n = min(len(evidence.data), len(evidence.trusted))
        rng = np.random.default_rng(evidence.work.seed)
        images = np.concatenate(
            [data.images[rng.choice(len(data), n, replace=False)] for data in (evidence.data, evidence.trusted)]
        )
        features, labels = np.concatenate([spectrum(images), color(images)], 1), np.repeat([0, 1], n)
        half = rng.permutation(2 * n) % 2 == 0
        read = ridge(features[half], labels[half], features[~half], 2).argmax(1) == labels[~half]
        share = float(read.mean())
        words = f"a linear model tells suspicious from trusted images in {share:.0%} of cases (50% is chance)"
        return Finding(share, (0.5, 0.5 / np.sqrt(len(read))), words)
