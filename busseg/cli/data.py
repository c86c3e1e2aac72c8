"""The verbs for datasets."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from busseg.cli.program import (
    Data,
    Fold,
    Groups,
    Splits,
    app,
    check_datasets,
    out_option,
    progress_bar,
    read_samples,
    report_failures,
)
from busseg.cli.terminal import say
from busseg.storage.run_folder import SPLITS

_SHOWN = 20  # rows that are printed


class Format(StrEnum):
    """The formats of `busseg convert` and `busseg review`, by their names in `busseg.data.convert.FORMATS`."""

    nnunet = "nnunet"
    coco = "coco"
    yolo = "yolo"
    medmnist = "medmnist"
    imagefolder = "imagefolder"
    label_studio = "label-studio"
    cvat = "cvat"
    busseg = "busseg"


@app.command()
def audit(
    data: Data,
    out: Annotated[Path, out_option("Folder for audit.html, audit.json and groups.csv.")] = Path("audit"),
) -> None:
    """Check datasets before you use them: faulty files and masks, copies, classes, sizes of lesions.

    Example: busseg audit data/busi --out audit
    """
    from busseg.data.audit import audit_dataset
    from busseg.data.audit_text import format_audit
    from busseg.evaluation.audit_page import write_audit
    from busseg.storage.claims import claim_folder
    from busseg.storage.run_folder import AUDIT, AUDIT_PAGE

    check_datasets(data)  # A wrong folder, in or out, is refused before the work, and nothing is written.
    with claim_folder(out, AUDIT):
        found = audit_dataset(data, progress=progress_bar("Auditing"))
        write_audit(found, out)
    say(format_audit(found))
    say(f"\nWrote {out / AUDIT_PAGE}")
    if found["findings"]["unreadable"]:
        raise typer.Exit(1)


@app.command()
def split(
    data: Data,
    out: Annotated[Path, out_option("CSV file to write.")] = Path(SPLITS),
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same folds.")] = 0,
    groups: Groups = None,
    keep_conflicts: Annotated[
        bool, typer.Option("--keep-conflicts", help="Keep the groups whose images have different classes.")
    ] = False,
    given: Annotated[
        bool, typer.Option("--given", help="Take the split or the folds that the dataset's files hold.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of another kind, too.")] = False,
) -> None:
    """Split datasets into stratified folds. Copies of an image, and the images of a patient, stay in one part.

    Prints the images of each class in each part of each fold, and how many are left out, and why.

    Example: busseg split data/busi --folds 5 --out splits.csv

    Example: busseg split data/busi my-scans --groups audit/groups.csv -o splits.csv
    """
    from busseg.data import find_reader
    from busseg.data.protocols import given_splits
    from busseg.data.readers import breakhis
    from busseg.data.split_text import format_splits
    from busseg.data.splits import grouped_splits, patient_splits, write_splits

    check_datasets(data)
    if given:
        samples = read_samples(data, groups)
        splits = given_splits(samples)
    elif find_reader(data[0])[0] is breakhis:
        samples = read_samples(data, groups, "histology")
        splits = patient_splits(samples, folds, seed)
    else:
        samples = read_samples(data, groups, "ultrasound")
        splits = grouped_splits(samples, folds, seed, keep_conflicts=keep_conflicts)
    write_splits(out, splits, force=force)
    say(format_splits(splits, samples))
    say(f"Wrote {out}")


@app.command()
def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SRC...", help="Dataset folders, or one output folder of busseg predict --json-lines."),
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write, new or empty.")],
    to: Annotated[Format, typer.Option(help="Format to write; see docs/formats.md.")],
    splits: Splits = None,
    fold: Fold = None,
    image_size: Annotated[
        int, typer.Option(min=8, help="medmnist: side in pixels of the squares for images of different sizes.")
    ] = 256,
) -> None:
    """Convert datasets or predictions to the format of another program. Every verb reads these formats, too.

    Example: busseg convert data/busi nnUNet_raw/Dataset501_BUSI --to nnunet
    """
    from busseg.data.convert import convert_dataset

    done = convert_dataset(
        sources, out, to.value, splits=splits, fold=fold, size=image_size, progress=progress_bar("Converting")
    )
    say("\n".join([*done.notes, f"Wrote {done.images} images to {out}"]))
    report_failures([{"error": error} for error in done.failed], done.images + len(done.failed))


@app.command()
def review(
    predictions: Annotated[Path, typer.Argument(help="Output folder of `busseg predict`.")],
    out: Annotated[Path, out_option("Folder for review.csv and the export.")] = Path("review"),
    to: Annotated[
        Format | None,
        typer.Option(
            help="Also write the images and predicted masks for correction, to a folder of this name: label-studio, "
            "cvat, coco, or busseg for any paint program. Needs predictions of --json-lines."
        ),
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Number of images to export, by rank. Default: all.")] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with columns file and group, the patient: the views of a patient are compared. "
            "Default: those of a DICOM study."
        ),
    ] = None,
) -> None:
    """Rank predictions by what a person should look at first: files without a prediction, images not like breast
    ultrasound, then by uncertainty and by the disagreement of the views of a group.

    After the corrections, `busseg convert REVIEW/FORMAT DATASET --to busseg` makes a dataset with images/ and masks/,
    which `busseg train` takes.

    Example: busseg review predictions --out review --to label-studio --first 50
    """
    from busseg.inference.review import review_predictions

    progress = progress_bar("Exporting")
    done = review_predictions(predictions, out, to=to and to.value, first=first, groups=patients, progress=progress)
    say("\n".join(f"{row['rank']}. {row['file']}: {row['reason']}" for row in done.rows[:_SHOWN]))
    if len(done.rows) > _SHOWN:
        say(f"... and {len(done.rows) - _SHOWN} more")
    say(f"Wrote {out}")
    if to and done.exported:
        images = done.exported.images
        say("\n".join([*done.exported.notes, f"Wrote {images} images to {out / to}"]))
        report_failures([{"error": error} for error in done.exported.failed], images + len(done.exported.failed))


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="busi, busbra, breast or bus_uclm: breast ultrasound.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
) -> None:
    """Download a dataset from its publisher, and print how to cite it.

    Example: busseg download busi data/busi
    """
    from busseg.data.download import HOMES, download_dataset

    made, home = download_dataset(dataset, folder, progress=progress_bar("Downloading")), HOMES[dataset]
    say(f"Wrote {made}\n{home.title}, {home.images} images, {home.page}")
    say(f"Licence: {home.licence}\nPlease cite {home.citation}")
