import re
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from busseg.data.phantom import draw_phantom
from busseg.imaging.images import read_image, write_image
from busseg.storage.files import read_csv

pytestmark = pytest.mark.usefixtures("light")


# === Predict ===
def test_predict_tells_each_image_and_writes_its_files(call, echo_file, names, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((32, 32), np.uint8))
    write_image(tmp_path / "s/b.png", np.full((32, 64), 255, np.uint8))
    out = tmp_path / "out"
    done = call("predict", tmp_path / "a.png", tmp_path / "s", "--model", echo_file, "--out", out)
    assert done.status == 0
    assert done.err.splitlines() == [
        f"busseg: warning: nearly one grey: {tmp_path}/{name}.png" for name in ("a", "s/b")
    ]
    assert f"{tmp_path}/a.png: normal 100% (benign 0%, malignant 0%), lesion 0.0% of the image\n" in done.out
    # Half the square is white.
    assert f"{tmp_path}/s/b.png: normal 50% (benign 50%, malignant 0%), lesion 100.0% of the image\n" in done.out
    files = {f"{name}_{what}.png" for name in "ab" for what in ("mask", "overlay")}
    assert names(out) == files | {"predictions.csv"}
    assert read_image(out / "b_mask.png").shape == (32, 64)
    # Going on, only what is missing is made.
    (out / "b_mask.png").unlink()
    (out / "a_mask.png").write_text("as it was")
    again = call("predict", tmp_path / "a.png", tmp_path / "s", "--model", echo_file, "--out", out, "--resume")
    assert (again.status, again.out) == (0, done.out)
    assert names(out) == files | {"predictions.csv"}
    assert (out / "a_mask.png").read_text() == "as it was"


def test_predict_in_a_process_goes_on_past_a_broken_image_and_ends_with_1(echo_file, call_apart, names, tmp_path):
    for name in ("a", "c"):
        write_image(tmp_path / f"s/{name}.png", np.tile(np.arange(0, 128, 4, np.uint8), (32, 1)))
    (tmp_path / "s/b.png").write_text("hello")
    done = call_apart("predict", tmp_path / "s", "--model", echo_file, "--out", tmp_path / "out")
    assert done.status == 1
    # Nothing else is there: what TensorFlow says when it starts is not for users.
    assert done.err.splitlines() == [
        f"busseg: skipped: Expected an image or a video, found text: {tmp_path}/s/b.png",
        "busseg: 1 of 3 files could not be read",
    ]
    assert [bool(row["error"]) for row in read_csv(tmp_path / "out/predictions.csv")] == [False, True, False]
    assert {"a_mask.png", "c_overlay.png"} <= names(tmp_path / "out")


def clip_of(write_scan, path):
    """A clip of two frames, 40 px wide: of 32 x 32 in the region, with 0.5 mm a pixel, the upper 24 rows are white."""
    frame = np.zeros((32, 40), np.uint8)
    frame[:24, 4:36] = 255
    return write_scan(path, np.stack([frame, frame]), (4, 0, 32, 32), (0.05, 0.05))


def test_predict_tells_the_frames_of_a_clip_in_square_millimetres(call, echo_file, write_scan, names, tmp_path):
    clip, out = clip_of(write_scan, tmp_path / "clip.dcm"), tmp_path / "out"
    done = call("predict", clip, "--model", echo_file, "--out", out, "--overlay-dicom")
    assert (done.status, done.err) == (0, "")
    for number in (1, 2):  # 24 * 32 pixels of 32 * 40, 0.25 mm2 each
        # The corners are 31 * 0.5 and 23 * 0.5 mm apart: 19.3 mm.
        line = f"{clip}, frame {number}: benign 75% (normal 25%, malignant 0%), lesion 60.0% of the image"
        assert f"{line} (192 mm², 19 mm across)\n" in done.out
    whole = f"{clip}, 2 of 2 frames: benign 75% (normal 25%, malignant 0%)"
    assert f"{whole}, lesions: 1, best frame: {out / 'clip_frame001_overlay.png'}\n" in done.out
    kinds = ("mask.png", "overlay.png", "overlay.dcm")
    files = {f"clip_frame00{number}_{kind}" for number in (1, 2) for kind in kinds}
    assert names(out) == files | {"clip_seg.dcm", "clip_sr.dcm", "clips.csv", "predictions.csv"}


def test_predict_warns_of_a_whole_frame_and_refuses_it_on_request(call, echo_file, write_scan, names, tmp_path):
    path = write_scan(tmp_path / "scans/a.dcm", np.full((32, 32), 204, np.uint8))
    arguments = ("predict", tmp_path / "scans", "--model", echo_file, "--out")
    done = call(*arguments, tmp_path / "whole")
    note = "whole frame shown, with any name on it (no region is marked)"
    assert (done.status, f"{note}: {path}\n" in done.err) == (0, True)
    assert (
        "a.dcm: benign 80% (normal 20%, malignant 0%), lesion 100.0% of the image" in done.out
    )  # which is an answer all the same
    done = call(*arguments, tmp_path / "out", "--require-region")
    refusal = f"Expected a DICOM file with a usable region, found that no region is marked: {path}"
    assert (done.status, f"busseg: skipped: {refusal}\n" in done.err) == (1, True)
    assert names(tmp_path / "out") == {"predictions.csv"}


def test_predict_tells_a_broken_clip_in_one_line_and_nothing_of_its_patient(
    call, echo_file, write_scan, patient, tmp_path
):
    clip = clip_of(write_scan, tmp_path / "s/clip.dcm")
    clip_of(write_scan, tmp_path / "s/whole.dcm")
    clip.write_bytes(clip.read_bytes()[:-2000])  # more than a frame
    done = call("predict", tmp_path / "s", "--model", echo_file, "--out", tmp_path / "out", "--json-lines")
    assert done.status == 1
    first, last = done.err.splitlines()
    assert first == f"busseg: skipped: Expected a number of frames that fit into the file, found 2: {clip}"
    assert last == "busseg: 1 of 2 files could not be read"
    written = [done.out, done.err]
    written += [(tmp_path / "out" / name).read_text() for name in ("predictions.csv", "predictions.jsonl")]
    assert not [secret for secret in patient.values() for text in written if secret in text]


@pytest.fixture
def folder_of_every_kind(write_scan, tmp_path):
    """A folder with a file of each kind that a user may have."""
    folder = tmp_path / "s"
    grey = draw_phantom("benign", seed=1, height=48, width=64)[0]
    scan = write_scan(folder / "scan.dcm", grey, (0, 0, *grey.shape[::-1]))
    write_scan(folder / "SEG", grey, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    write_scan(folder / "SR", grey, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    image = Image.fromarray(grey)
    for name in ("a.png", "b.jpg", "c.jfif", "d.bmp", "e.webp", "f.gif", "g.jp2", "h.tif"):
        image.save(folder / name, **({"format": "JPEG"} if name == "c.jfif" else {}))
    for name in ("i.gif", "j.webp", "k.tif"):
        image.save(folder / name, save_all=True, append_images=[ImageOps.invert(image)])
    for name, codec in (("l.mp4", "mp4v"), ("m.avi", "MJPG")):
        video = cv2.VideoWriter(str(folder / name), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
        for _ in range(2):
            video.write(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
        video.release()
    if features.check("avif"):
        image.save(folder / "n.avif")
    contents = {
        "o.heic": b"\0\0\0\x18ftypheic", "p.nii": b"\x5c\x01", "q.nii.gz": b"\x1f\x8b", "r.nrrd": b"NRRD0004\n",
        "s.zip": b"PK\x03\x04", "t.pdf": b"%PDF-1.7", "u.txt": b"hello", "v.csv": b"a,b\n", "Thumbs.db": b"\xd0\xcf",
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    assert scan.exists()
    return folder


def test_predict_answers_or_names_every_file_of_a_folder(call, echo_file, folder_of_every_kind, tmp_path):
    folder, out = folder_of_every_kind, tmp_path / "out"
    done = call("predict", folder, "--model", echo_file, "--out", out)
    assert done.status == 0
    rows = read_csv(out / "predictions.csv")
    frames = Counter(Path(row["file"]).name for row in rows)
    moving = {"i.gif", "j.webp", "k.tif", "l.mp4", "m.avi"}
    assert {name for name, count in frames.items() if count == 2} == moving
    avif = {"n.avif"} & {path.name for path in folder.iterdir()}
    still = {"a.png", "b.jpg", "c.jfif", "d.bmp", "e.webp", "f.gif", "g.jp2", "h.tif", "scan.dcm", *avif}
    assert {name for name, count in frames.items() if count == 1} == still
    (line,) = done.err.splitlines()
    assert line == (
        "busseg: passed over 11 files that are not read: 1 DICOM of Comprehensive SR Storage (SR), "
        "1 DICOM of Segmentation Storage (SEG), 1 HEIC (o.heic), 2 NIfTI (p.nii, q.nii.gz), 1 NRRD (r.nrrd), "
        "1 PDF (t.pdf), 1 ZIP (s.zip), 1 of an unknown kind (Thumbs.db), 2 text (u.txt, v.csv)"
    )


def test_predict_refuses_a_file_that_is_named_with_the_way_to_convert_it(
    call, echo_file, folder_of_every_kind, tmp_path
):
    folder = folder_of_every_kind
    named = [folder / name for name in ("q.nii.gz", "a.png", "SEG")]
    done = call("predict", *named, "--model", echo_file, "--out", tmp_path / "out")
    assert done.status == 1
    assert done.err.splitlines() == [
        "busseg: skipped: Expected an image or a video, found NIfTI; export its slices as PNG, as ITK-SNAP and 3D "
        f"Slicer do: {folder}/q.nii.gz",
        f"busseg: skipped: Expected an ultrasound image, found Segmentation Storage: {folder}/SEG",
        "busseg: 2 of 3 files could not be read",
    ]


def test_predict_prints_no_class_out_of_distribution(call, told_model, write_scan, names, tmp_path):
    told_model.save(tmp_path / "certain.keras")
    ramp = np.tile(np.arange(0, 128, 4, np.uint8), (32, 1))  # of mean 62: an ood_score of 0.49
    write_scan(tmp_path / "s/a.dcm", ramp, (0, 0, 32, 32))
    write_scan(tmp_path / "s/b.dcm", 255 - ramp, (0, 0, 32, 32))  # 1.51
    write_scan(tmp_path / "s/c.dcm", np.stack([ramp, 255 - ramp, 255 - ramp]), (0, 0, 32, 32))
    write_scan(tmp_path / "s/d.dcm", np.stack([ramp, 255 - ramp, ramp]), (0, 0, 32, 32))
    out = tmp_path / "out"
    done = call("predict", tmp_path / "s", "--model", tmp_path / "certain.keras", "--out", out)
    assert done.status == 0
    lines = [line.partition("/s/")[2] for line in done.out.splitlines() if "/s/" in line]
    assert [re.sub(r" \d+% .*", "", line) for line in lines] == [
        "a.dcm: normal", "b.dcm: not like breast ultrasound",
        *(f"c.dcm, frame {number}: not like breast ultrasound" for number in (1, 2, 3)),
        "d.dcm, frame 1: normal", "d.dcm, frame 2: not like breast ultrasound", "d.dcm, frame 3: normal",
        "c.dcm, 3 of 3 frames: not like breast ultrasound", "d.dcm, 2 of 3 frames: normal",
    ]  # fmt: skip
    assert done.err.splitlines() == [
        f"busseg: warning: not like breast ultrasound: {tmp_path}/s/b.dcm",
        f"busseg: warning: not like breast ultrasound in 3 of 3 frames: {tmp_path}/s/c.dcm",
        f"busseg: warning: not like breast ultrasound in 1 of 3 frames: {tmp_path}/s/d.dcm",
        "busseg: 2 of 4 files are not like breast ultrasound: no class is printed, and no DICOM SEG or SR is written "
        "for 2 DICOM files",
    ]
    assert {name for name in names(out) if name.endswith(".dcm")} == {"a_seg.dcm", "a_sr.dcm", "d_seg.dcm", "d_sr.dcm"}


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_predict_names_the_extra_that_is_missing(call, echo_file, write_scan, tmp_path, monkeypatch, package):
    clip = clip_of(write_scan, tmp_path / "clip.dcm")
    monkeypatch.setitem(sys.modules, package, None)
    done = call("predict", clip, "--model", echo_file, "--out", tmp_path / "out")
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert re.fullmatch(rf'busseg: error: Expected {package} .*found none; pip install "busseg\[dicom\]": {clip}', line)


# === Explain ===
def test_explain_of_a_shipped_model_starts_no_keras_and_goes_on_past_a_broken_image(call_apart, names, tmp_path):
    write_image(tmp_path / "s/a.png", np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8))
    (tmp_path / "s/b.png").write_text("hello")
    code = (
        "import sys\nfrom busseg.cli import main\ntry: main()\n"
        "finally: print('loaded:', sorted({'keras', 'tensorflow'} & sys.modules.keys()))"
    )
    done = call_apart("explain", tmp_path / "s", "--model", "small", "--out", tmp_path / "out", code=code)
    assert done.status == 1
    assert done.out.endswith(f"Wrote {tmp_path}/out\nloaded: []\n")
    skipped = f"busseg: skipped: Expected an image or a video, found text: {tmp_path}/s/b.png"
    assert done.err.splitlines()[-2:] == [skipped, "busseg: 1 of 2 files could not be read"]
    assert names(tmp_path / "out") == {"a_occlusion.png", "a_heat.npz", "explanations.csv"}


def test_explain_refuses_a_network_that_is_none_of_busseg_in_one_line(call, echo_file, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((32, 32), np.uint8))
    done = call("explain", tmp_path / "a.png", "--model", echo_file, "--out", tmp_path / "out")
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "busseg: error: Expected a network of build_unet or build_classifier, found another one: echo\n"
    )


# === Export ===
@pytest.mark.parametrize(
    ("options", "name", "file"),
    [
        ([], "export", "export/saved_model.pb"),
        (["--format", "onnx"], "export.onnx", "export.onnx"),
        (["--format", "litert"], "export.tflite", "export.tflite"),
        pytest.param(["--format", "openvino"], "export", "export/model.xml", marks=pytest.mark.slow),
    ],
)
def test_export_writes_the_format(call, with_graphs, echo_file, tmp_path, options, name, file):
    done = call("export", echo_file, "--out", tmp_path / name, *options)
    assert (done.status, done.err) == (0, "")
    assert re.search(
        rf"^Wrote {tmp_path}/{name}; its outputs differ .* by at most \de[+-]\d\d$", done.out, re.MULTILINE
    )
    assert (tmp_path / file).is_file()


def test_export_of_a_page_takes_the_runtime_and_says_how_to_get_it(call, tmp_path):
    refused = call("export", "small", "--format", "web", "--out", tmp_path / "page")
    assert refused.status == 2
    assert "npm pack onnxruntime-web@1.30.0 && tar -xzf onnxruntime-web-1.30.0.tgz, then --runtime" in refused.err
    (tmp_path / "package/dist").mkdir(parents=True)
    for name in ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"):
        (tmp_path / "package" / name).touch()
    (tmp_path / "package/package.json").write_text('{"version": "1.30.0"}')
    options = ["--format", "web", "--runtime", tmp_path / "package"]
    assert call("export", "small", *options, "--out", tmp_path / "page").status == 0
    assert (tmp_path / "page/index.html").is_file()
    assert call("export", "small", "--format", "onnx", *options[2:], "--out", tmp_path / "a.onnx").status == 2
