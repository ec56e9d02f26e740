"""A matplotlib figure to an SVG element inside a page.

Text stays text, in the page's font. Colours that the theme decides are drawn as :data:`INK` and its like and become
CSS variables, so one figure serves light and dark. Ids are made the figure's own, for a page holds several.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
FAINT = "#040506"
LINE = "#070809"
PAGE = "#0a0b0c"
SERIES = ("#0d0001", "#0d0002", "#0d0003", "#0d0004", "#0d0005", "#0d0006", "#0d0007", "#0d0008")
"""Stand-ins for colours that the theme decides; style.css has a light and a dark value for each."""
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    LINE: "line",
    PAGE: "page",
    **{color: f"series-{index}" for index, color in enumerate(SERIES)},
}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flashrl-registry",
    "text.parse_math": False,  # a name with two dollars in it is no formula
    "font.family": "DejaVu Sans",  # comes with matplotlib, so widths are the same everywhere
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_ROOT = re.compile(r'<svg\b[^>]*?viewBox="0 0 ([0-9.]+) ([0-9.]+)"[^>]*>', re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>\s*", re.DOTALL)  # of every element of the page; ours has it
_TAG = re.compile(r"<[^>]+>")  # names have no angle brackets left, in text or in attributes
_ID = re.compile(r'\b(id="|xlink:href="#|url\(#)')
_GROUP = re.compile(r'<g id="([^"]*)">')
_PIXELS_PER_POINT = 4 / 3


@contextmanager
def drawing() -> Iterator[None]:
    """Drawing with our settings and none of the user's, put back afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A letter that the font lacks is only measured with it; the browser has another font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def element(figure: Figure, key: str, title: str, description: str, hints: Mapping[str, str] | None = None) -> str:
    """Draw a figure.

    Args:
        figure: Made inside :func:`drawing`.
        key: Letters that no other figure of the page has.
        title: Short name, for those who cannot see it.
        description: What it shows, for them.
        hints: Text per gid of an artist, shown where the pointer rests on it.

    Returns:
        One ``<svg>`` element.
    """
    text = io.StringIO()
    # None leaves a field out; a date would make every run's bytes its own.
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = text.getvalue()
    root = _ROOT.search(drawn)
    assert root is not None  # print_svg writes one
    body = _STYLE.sub("", _METADATA.sub("", drawn[root.end() :]))
    body = _TAG.sub(lambda tag: _own(tag[0], key, hints or {}), body)
    width = float(root[1]) * _PIXELS_PER_POINT
    opening = (
        f'<svg class="plot" role="img" aria-labelledby="{key}-title {key}-text" viewBox="0 0 {root[1]} {root[2]}" '
        f'style="max-width:{width:.0f}px;min-width:{width * 0.75:.0f}px">'
    )
    heading = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-text">{escape(description)}</desc>'
    return opening + heading + re.sub(r"\n\s*", "\n", body).strip()


def _own(tag: str, key: str, hints: Mapping[str, str]) -> str:
    """A tag with the theme's colours, the figure's own ids, and what the pointer shows."""
    group = _GROUP.fullmatch(tag)
    for color, variable in _VARIABLES.items():
        tag = tag.replace(color, f"var(--{variable})")
    return _ID.sub(rf"\g<1>{key}-", tag) + _title(hints.get(group[1]) if group else None)


def _title(hint: str | None) -> str:
    return f"<title>{escape(hint)}</title>" if hint else ""
