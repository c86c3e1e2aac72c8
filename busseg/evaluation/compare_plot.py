"""A comparison as a plot: the scores of each folder, and the paired differences."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from busseg.evaluation.compare_text import SHOWN, shorten
from busseg.storage.files import replacing
from busseg.storage.signature import SOFTWARE

DRAWN = ("dice", "hd95_px", "clean_normal_rate", "accuracy", "macro_auc")
_LOWER_IS_BETTER = {"hd95_px"}
_CHANGED, _UNSURE = "#0b6fa4", "#7a8794"


def draw_comparison(comparison: dict, path: str | Path) -> None:
    """Draw the main scores of each folder with their intervals, and under them the paired differences.

    Args:
        comparison: Dict, as `busseg.evaluation.compare.compare` returns it.
        path: Path of the PNG file.
    """
    models, differences = comparison["models"], comparison["differences"]
    drawn = [score for score in DRAWN if any(model["scores"].get(score) is not None for model in models)]
    heights = [0.9 + 0.42 * len(models), 0.9 + 0.42 * len(differences)]
    figure = Figure(figsize=(2.4 + 2.7 * len(drawn), sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(2, len(drawn), squeeze=False, sharey="row", height_ratios=heights)
    for column, score in zip(axes.T, drawn):
        upper, lower = column
        scores = [(model["scores"].get(score), *model["intervals"].get(score, ())) for model in models]
        _draw_dots(upper, scores, [_CHANGED] * len(models))
        better = "lower" if score in _LOWER_IS_BETTER else "higher"
        upper.set_title(f"{SHOWN[score][0]}\n({better} is better)", fontsize=11)
        paired = [one["differences"].get(score) for one in differences]
        changes = [(None,) if not one else (one["difference"], one["low"], one["high"]) for one in paired]
        lower.axvline(0, color="black", linewidth=1)
        sure = [one and (one["low"] > 0 or one["high"] < 0) for one in paired]
        _draw_dots(lower, changes, [_CHANGED if each else _UNSURE for each in sure])
    axes[0, 0].set_yticks(range(len(models)), [shorten(model["name"], 28) for model in models])
    axes[1, 0].set_yticks(range(len(differences)), [shorten(one["name"], 28) for one in differences])
    figure.supxlabel(
        f"Above: scores with 95 % intervals. Below: difference to {shorten(models[0]['name'], 40)} on common images; "
        "blue where its 95 % interval excludes zero.",
        fontsize=10,
    )
    with replacing(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, dpi=110, metadata=SOFTWARE)


def _draw_dots(axis, points, colors):
    """Dots with their intervals, `(value, low, high)` or `(None,)`, one under the other."""
    for place, ((value, *interval), color) in enumerate(zip(points, colors)):
        if value is not None:
            axis.plot(interval, [place, place], color=color, linewidth=2)
            axis.plot([value], [place], "o", color=color, markersize=7)
    axis.set_ylim(len(points) - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
