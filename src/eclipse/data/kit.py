"""What a layout is made of, to be imported from ``eclipse.data``."""

from eclipse.data.imageset import ImageSet as ImageSet
from eclipse.data.layouts.folder import is_image as is_image
from eclipse.data.layouts.folder import without_ending as without_ending
from eclipse.data.layouts.tree import place as place
from eclipse.data.layouts.tree import walk as walk
from eclipse.data.picture import Picture as Picture
from eclipse.data.picture import Pixels as Pixels
from eclipse.data.picture import decode as decode
from eclipse.data.picture import encode_png as encode_png
from eclipse.data.picture import from_array as from_array
from eclipse.data.pixels import quantize as quantize
from eclipse.data.pixels import to_unit as to_unit
from eclipse.data.source import LAYOUTS as LAYOUTS
from eclipse.data.source import load_imageset as load_imageset
from eclipse.data.source import load_pictures as load_pictures
from eclipse.data.source import open_source as open_source
from eclipse.data.store import Replacements as Replacements
from eclipse.data.store import Row as Row
from eclipse.data.store import Source as Source
from eclipse.data.store import Store as Store
from eclipse.errors import EclipseError as EclipseError
