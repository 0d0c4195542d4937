"""Small plots for asset metadata: PNG inside Markdown, so that Dagster's UI shows them without any file server."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dagster import MarkdownMetadataValue, MetadataValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Metadata live in Dagster's event log, which is read whole when a run is opened.
PNG_BYTES_MAX = 100_000
_WIDTH_INCH, _HEIGHT_INCH, _DPI = 4.2, 2.2, 80


def bars(values: Mapping[str, float], *, title: str, unit: str) -> MarkdownMetadataValue:
    """One bar for each name."""

    def draw(axes: Axes) -> None:
        axes.bar(list(values), list(values.values()), color="#4f6bed")
        axes.set_ylabel(unit)

    return _markdown(draw, title)


def lines(
    series: Mapping[str, Sequence[float]], *, title: str, unit: str, is_log: bool = False
) -> MarkdownMetadataValue:
    """One line for each name, over the position 1, 2, 3 ..."""

    def draw(axes: Axes) -> None:
        for number, (name, values) in enumerate(series.items()):
            style = "-" if number == 0 else "--"
            axes.plot(range(1, len(values) + 1), values, style, label=name)
        if is_log:
            axes.set_yscale("log")
        axes.set_ylabel(unit)
        axes.legend(fontsize=7, frameon=False)

    return _markdown(draw, title)


def _markdown(draw: Callable[[Axes], None], title: str) -> MarkdownMetadataValue:
    # Not pyplot: it keeps state per process and belongs to the main thread. Imported late: it takes half a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCH, _HEIGHT_INCH), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    if png.tell() > PNG_BYTES_MAX:
        return MetadataValue.md(f"*{title}: the plot has {png.tell()} bytes, too many to show.*")
    return MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png.getvalue()).decode()})")
