import pytest
from PIL import Image

from busseg.data.sample_images import samples
from busseg.experiments import demo
from busseg.imaging.images import read_image
from busseg.storage.files import read_csv
from busseg.training.fit import fit
from busseg.training.recipe import Recipe


def test_demo_opens_with_the_packaged_model_and_closes_with_what_to_do(tmp_path, monkeypatch, capfd, graphless):
    def fit_without_graphs(*arguments, **options):
        with graphless():
            return fit(*arguments, **options)

    monkeypatch.setattr(demo, "fit", fit_without_graphs)
    monkeypatch.setattr(demo, "PHANTOMS_PER_CLASS", 10)
    monkeypatch.setattr(demo, "load_recipe", lambda _: Recipe(image_size=32, width=4, depth=2, epochs=1, batch_size=32))
    out = tmp_path / "demo"
    capfd.readouterr()
    summary = demo.run_demo(out)
    done = capfd.readouterr()
    assert [line.split()[0] for line in done.err.splitlines() if line[1:2] == "/"] == [f"{n}/6" for n in range(1, 7)]
    predicted = [line.split(":")[0].strip() for line in done.out.splitlines() if ": predicted " in line]
    assert sorted(predicted) == sorted([*(sample.label for sample in samples()), "benign", "malignant", "normal"])
    assert list(summary) == ["test"]  # no score on what was trained on
    assert summary["test"]["images"] == 6  # a fifth of 3 * 10
    closing = done.out[done.out.index("Done in ") :]
    assert len(closing.splitlines()) <= 8
    for path in (out / "evaluation/report.html", out / "first-predictions"):
        assert str(path) in closing
        assert path.exists()
    for verb in ("predict", "train"):
        assert f"busseg {verb} " in closing


@pytest.mark.slow
def test_demo_leaves_all_it_promises_and_learns_every_class(tmp_path):
    from busseg.inference.predictor import Predictor

    out = tmp_path / "demo"
    summary = demo.run_demo(out)
    assert summary["test"]["scores"]["macro_f1"] >= 0.9
    assert min(row["f1"] for row in summary["test"]["classes"].values()) >= 0.8
    assert summary["test"]["scores"]["dice"] >= 0.7
    assert summary["test"]["lesions"] == 2 * demo.PHANTOMS_PER_CLASS // 5  # a fifth of two classes

    for figure in ("test_review", "test_confusion"):
        with Image.open(out / "evaluation" / "figures" / f"{figure}.png") as image:
            image.load()
    assert (out / "evaluation" / "summary.json").is_file()
    assert "phantoms" in (out / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert len(read_csv(out / "evaluation" / "per_image.csv")) == 3 * demo.PHANTOMS_PER_CLASS // 5

    rows = read_csv(out / "predictions" / "predictions.csv")
    assert len(rows) == 3
    assert len(list((out / "predictions").glob("*_overlay.png"))) == 3
    run, export = Predictor(out / "run"), Predictor(out / "saved_model")
    for row in rows:
        image = read_image(row["file"])
        assert run.predict(image).label == export.predict(image).label == row["label"]
