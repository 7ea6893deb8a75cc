"""A detector: the corners of images tell their class."""

import numpy as np

from eclipse.detectors import Detector, Evidence, Finding, excess


class Corners(Detector):
    """Whether a linear model of the four corner pixels is right more often than a network of the content."""

    title = "the corners tell the class"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        corners = evidence.data.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        read = evidence.read(corners.reshape(len(corners), -1).astype(np.float32))
        right = evidence.right(read)  # of each row, by a model that has not seen it
        statistic, null = excess(right, evidence.right(evidence.in_content), margin=0.03)  # what a clean set may have
        return Finding(statistic, null, f"the corners tell {right.mean():.0%} of the labels", family="class-wise")
