"""The frame of every HTML page: one file that needs nothing beside itself, no script, no font, no picture."""

from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """Fill a template of this package with values, all of which are escaped.

    Args:
        template: its path in this package; it extends ``page.html.jinja`` with a ``title``, a ``body`` and a ``style``
            of its own, which find its colors (light and dark), tables, notes, warnings and headlines there.
        values: of the names in it; one that is missing is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_FOLDER)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(values)
