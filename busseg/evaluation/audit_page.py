"""The page of an audit: one HTML file with its findings, its groups of copies and the sizes of its lesions."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image, ImageOps

from busseg.data.audit import UNLABELLED
from busseg.data.audit_text import count_unjudged, describe_finding
from busseg.data.findings import FINDINGS
from busseg.data.sample import CLASSES
from busseg.evaluation.page import embed_figure, embed_image, write_page
from busseg.evaluation.plots import COLORS, MANY, PERCENT, SIZE
from busseg.imaging.images import count_pixels, read_image
from busseg.imaging.threads import map_in_turn
from busseg.storage.claims import claim_folder
from busseg.storage.files import write_csv, write_text
from busseg.storage.run_folder import AUDIT, AUDIT_PAGE, GROUPS

THUMBNAIL_PX = 160  # longer side, of images in a contact sheet
EXAMPLE_PX = 280  # width, of example images of a finding
EXAMPLES = 8  # of a finding
SHEETS = 400  # groups that are drawn; BUSI has about 150
TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)  # of the sizes of lesions
MEMBERS = 12  # images of a group that are drawn; the frames of a clip may be more


def write_audit(audit: dict, out: str | Path) -> None:
    """Write `audit.json`, `groups.csv` (`file,group`, for `busseg split --groups`) and `audit.html` into a folder.

    Args:
        audit: Dict, as `busseg.data.audit.audit_dataset` returns it. The images are read again, for the thumbnails.
        out: Path of the folder; an earlier audit there is replaced.

    Raises:
        FileExistsError: If `out` holds other files than an earlier audit.
    """
    with claim_folder(out, AUDIT) as out:
        _write(audit, out)


def _write(audit, out):
    write_text(out / AUDIT.marker, json.dumps(audit, indent=1) + "\n")
    write_csv(out / GROUPS, ("file", "group"), [{name: f[name] for name in ("file", "group")} for f in audit["files"]])
    found = {kind: entries for kind, entries in audit["findings"].items() if entries}
    sheets = sorted(audit["groups"], key=lambda group: len(set(group["labels"])) == 1)[:SHEETS]
    thumbnails = _thumbnails(audit, sheets)
    examples = {
        kind: list(map_in_turn(partial(_example, audit, draw), _few(found[kind])))
        for kind, draw in (("burned_in", _grey), ("colour_overlay", _colour), ("misaligned_mask", _beside_image))
        if kind in found
    }
    name = Path(audit["data"]).name if len(audit["sources"]) == 1 else " + ".join(audit["sources"])
    write_page(
        out / AUDIT_PAGE,
        AUDIT_PAGE,
        audit=audit,
        title=f"Audit of {name}",
        findings=[_describe(audit, kind, found[kind]) for kind in FINDINGS if kind in found],
        problems=sum(not FINDINGS[kind].note for kind in found),
        notes=[kind for kind, one in FINDINGS.items() if one.note],
        unjudged=count_unjudged(audit),
        in_copies=sum(len(group["files"]) for group in audit["groups"]),
        sheets=sheets,
        thumbnails=thumbnails,
        members=MEMBERS,
        examples=examples,
        titles={kind: one.title for kind, one in FINDINGS.items()},
        colors={label: COLORS.get(label, COLORS[None]) for label in audit["classes"]},
        plots=_draw_plots(audit),
    )


def _describe(audit, kind, entries):
    title, advice = describe_finding(audit, kind), FINDINGS[kind].advice
    return {"kind": kind, "title": title, "advice": advice, "entries": entries}


# === Images ===
def _thumbnails(audit, groups):
    """Dict from the name of each image that is drawn to its `data:` address."""
    places = {file["file"]: Path(audit["data"]) / file["path"] for file in audit["files"]}
    names = [name for group in groups for name in group["files"][:MEMBERS]]
    drawn = map_in_turn(
        lambda name: _thumbnail(read_image(places[name])), names, lambda name: count_pixels(places[name])
    )
    return dict(zip(names, drawn))


def _thumbnail(image):
    height, width = image.shape
    return embed_image(image, width=max(1, round(THUMBNAIL_PX * min(1, width / height))))


def _few(entries):
    """A few of many findings, evenly from the first to the last, so that every class has its share."""
    places = np.linspace(0, len(entries) - 1, min(EXAMPLES, len(entries)))
    return [entries[round(place)] for place in places]


def _example(audit, draw, entry):
    return {"src": embed_image(draw(audit, entry), width=EXAMPLE_PX), **entry}


def _grey(audit, entry):
    return read_image(Path(audit["data"]) / entry["file"])


def _colour(audit, entry):
    with Image.open(Path(audit["data"]) / entry["file"]) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _beside_image(audit, entry):
    """The image at the left, its mask at the right, both at one scale."""
    path = next(file["path"] for file in audit["files"] if file["file"] == entry["sample"])
    image, mask = (read_image(Path(audit["data"]) / name) for name in (path, entry["file"]))
    height = max(len(image), len(mask))
    gap = np.full((height, 8), 255, np.uint8)
    sides = [np.pad(side, ((0, height - len(side)), (0, 0)), constant_values=255) for side in (image, mask)]
    return np.hstack([sides[0], gap, sides[1]])


# === Plots ===
def _draw_plots(audit):
    """Dict from the name of a plot to its `data:` address. A plot without data is left out."""
    figures = {}
    if audit["width_px"]:
        figures["sizes"] = plot_sizes(audit["files"])
    if any(file["lesion_fraction"] for file in audit["files"]):
        figures["lesions"] = plot_lesions(audit["files"])
    return {name: embed_figure(figure) for name, figure in figures.items()}


def plot_sizes(files: Sequence[dict]) -> Figure:
    """The width and height of each readable image, as a dot.

    Args:
        files: The `files` of an audit.
    """
    figure, axis = _panel(xlabel="width, pixels", ylabel="height, pixels")
    for label, mine in _by_class(file for file in files if file["width_px"]).items():
        sizes = np.array([(file["width_px"], file["height_px"]) for file in mine])
        axis.plot(
            *sizes.T, "o", color=COLORS.get(label, COLORS[None]), alpha=0.5, markersize=4, markeredgewidth=0,
            rasterized=len(mine) > MANY, label=label,
        )  # fmt: skip
    axis.set(xlim=(0, None), ylim=(0, None))
    axis.legend(loc="lower right")
    return figure


def plot_lesions(files: Sequence[dict]) -> Figure:
    """The size of each lesion as a share of the image, as a dot on a logarithmic axis, and a box of the quartiles.

    Args:
        files: The `files` of an audit.
    """
    figure, axis = _panel(ylabel="lesion, share of the image", yscale="log")
    shares = {
        label: np.array([file["lesion_fraction"] for file in mine])
        for label, mine in _by_class(file for file in files if file["lesion_fraction"]).items()
    }
    for place, (label, values) in enumerate(shares.items()):
        aside = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * 0.5  # the golden ratio spreads the dots evenly
        axis.plot(
            place + aside, values, "o", color=COLORS.get(label, COLORS[None]), alpha=0.5, markersize=4,
            markeredgewidth=0, rasterized=len(values) > MANY,
        )  # fmt: skip
    style = {"color": "black", "linewidth": 1.8}
    axis.boxplot(list(shares.values()), positions=range(len(shares)), widths=0.6, showfliers=False, medianprops=style)
    names = [f"{label}, {len(values)}\nmedian {np.median(values):.1%}" for label, values in shares.items()]
    axis.set_xticks(range(len(shares)), names)
    axis.set_xlim(-0.6, len(shares) - 0.4)
    axis.set_yticks(TICKS)
    axis.yaxis.set_major_formatter(PERCENT)
    axis.yaxis.set_minor_formatter(NullFormatter())
    every = np.concatenate(list(shares.values()))
    axis.set_ylim(every.min() / 1.3, every.max() * 1.3)
    return figure


def _panel(**settings):
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    axis.set(**settings)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _by_class(files):
    mine = {}
    for file in files:
        mine.setdefault(file["label"] or UNLABELLED, []).append(file)
    return {label: mine[label] for label in (*CLASSES, UNLABELLED) if label in mine}
