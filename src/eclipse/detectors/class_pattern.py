"""Class patterns: statistics of whole images, of color, sharpness and spectrum, tell the class."""

from eclipse.detectors.detector import Detector, Finding, clearest
from eclipse.detectors.evidence import Evidence
from eclipse.detectors.features import color


class ClassPattern(Detector):
    """Whether the spectrum, or the color and the extreme values, of an image tell its class better than its content.

    Class-wise blur (CUDA) shows in the spectrum alone, shifts of color and single pixels in the moments.
    """

    title = "spectrum or color of an image tell the class"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare with the content on held-out rows."""
        read = {"spectrum": evidence.in_spectrum, "color": evidence.read(color(evidence.data.images))}
        return clearest(evidence, read, "a linear model of spectrum or color", _family)


def _family(evidence: Evidence) -> str:
    """Blur where networks read no more in what purification takes away than in the content: nothing was added."""
    fine = evidence.right(evidence.in_residual).mean() > evidence.right(evidence.in_content).mean()
    return "high-frequency" if fine else "blur"
