import pytest
from PIL import Image

from busseg.imaging.images import read_image
from busseg.storage.files import read_csv


@pytest.mark.slow
def test_demo_leaves_all_it_promises_and_finds_the_lesions(tmp_path):
    from busseg.experiments.demo import PHANTOMS_PER_CLASS, run_demo
    from busseg.inference.predictor import Predictor

    out = tmp_path / "demo"
    summary = run_demo(out)
    assert summary["test"]["scores"]["dice"] >= 0.7
    assert summary["test"]["lesions"] == 2 * PHANTOMS_PER_CLASS // 5  # a fifth of two classes

    for figure in ("test_review", "test_confusion"):
        with Image.open(out / "evaluation" / "figures" / f"{figure}.png") as image:
            image.load()
    assert (out / "evaluation" / "summary.json").is_file()
    assert "phantoms" in (out / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert len(read_csv(out / "evaluation" / "per_image.csv")) == 3 * PHANTOMS_PER_CLASS

    rows = read_csv(out / "predictions" / "predictions.csv")
    assert len(rows) == 3
    assert len(list((out / "predictions").glob("*_overlay.png"))) == 3
    run, export = Predictor(out / "run"), Predictor(out / "saved_model")
    for row in rows:
        image = read_image(row["file"])
        assert run.predict(image).label == export.predict(image).label == row["label"]
