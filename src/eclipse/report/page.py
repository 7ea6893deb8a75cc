"""The frame of every HTML page: one file that needs nothing beside itself."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError, escaped
from eclipse.runs.files import write_whole

_FOLDER = Path(__file__).parent
SMALL = 96  # pixels of the longer side, up to which an image is shown whole and without loss
_SHOWN = 160  # pixels of such an image on the page


def render(template: str, *, live: bool = False, **values: Any) -> str:
    """Fill a template of this package with values, all of which are escaped, and made visible.

    Args:
        template: its path in this package; it extends ``page.html.jinja`` with a ``title``, a ``body`` and a ``style``
            of its own, which find its colors (light and dark), tables, notes, warnings and headlines there.
        live: pairs of images (``compare.html.jinja``) get sliders. No other script may run, whatever is in the data.
        values: of the names in it; one that is missing is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: escaped(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_FOLDER / "slider.js").read_text(encoding="utf-8") if live else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(values, script=Markup(script), digest=digest)


def write(text: str, folder: Path, name: str) -> Path:
    """Write a page into a folder, which is made where it is missing; return its path.

    Raises:
        EclipseError: the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise EclipseError(f"the output {str(folder)!r} is a file; expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    write_whole(path, text.encode())
    return path


def enlarged(height: int, width: int) -> tuple[int, int] | None:
    """Width and height on a page of an image that is shown whole and without loss; None for a large one."""
    longest = max(height, width)
    times = max(1, _SHOWN // longest)
    return (width * times, height * times) if longest <= SMALL else None


def named(id: str) -> str:
    """The id of a row for people."""
    return f"row {id}" if id.isdecimal() else id


def class_of(images: ImageSet, row: int) -> str:
    """The class of a row for people; empty where there are no labels."""
    if images.labels is None:
        return ""
    label = int(images.labels[row])
    return images.class_names[label] if images.class_names else f"class {label}"


def picture(pixels: NDArray[np.uint8], format: str = "PNG", **options: Any) -> str:
    """An image as the address of itself.

    Args:
        pixels: (3, H, W) or (1, H, W).
        format: of Pillow.
        options: of the format.
    """
    file = io.BytesIO()
    shape = pixels.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(shape[:, :, 0] if len(pixels) == 1 else shape)).save(file, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
