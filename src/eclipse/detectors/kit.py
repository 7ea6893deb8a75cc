"""What detectors are made of, to be imported from ``eclipse.detectors``."""

from eclipse.data.imageset import ImageSet as ImageSet
from eclipse.detectors.detector import Detector as Detector
from eclipse.detectors.detector import Finding as Finding
from eclipse.detectors.detector import Hits as Hits
from eclipse.detectors.detector import excess as excess
from eclipse.detectors.evidence import Evidence as Evidence
from eclipse.detectors.evidence import Probabilities as Probabilities
from eclipse.detectors.evidence import ridge as ridge
from eclipse.errors import EclipseError as EclipseError
