"""Residuals: what the denoiser takes away tells the class better than what it leaves."""

from eclipse.detectors.detector import Detector, Finding, clearest
from eclipse.detectors.evidence import Evidence
from eclipse.detectors.family import pattern


class Residual(Detector):
    """Whether labels are read better in x - D(x) than in D(x).

    The content of natural images survives a denoiser, and what it takes away is texture and noise. A perturbation that
    networks are to learn instead of the content is there.
    """

    title = "what purification takes away tells the class"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare the two on held-out rows."""
        read = {"convolutional": evidence.in_residual, "linear": evidence.in_flat_residual}
        hits = {name: evidence.right(found).mean() for name, found in read.items()}
        plain = hits["linear"] >= hits["convolutional"]
        reader = f"a {'linear model' if plain else 'network'} of what purification takes away"
        return clearest(evidence, read, reader, pattern if plain else lambda _: "high-frequency")
