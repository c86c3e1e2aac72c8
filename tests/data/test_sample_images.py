import csv
import hashlib
import subprocess
import sys

import busseg
from busseg.data import find_samples
from busseg.data.burned_in import has_marks
from busseg.data.sample_images import SAMPLES, samples
from busseg.imaging.images import read_image, read_mask


def test_two_benign_and_two_malignant_images_of_four_patients():
    found = samples()
    assert sorted(sample.label for sample in found) == ["benign", "benign", "malignant", "malignant"]
    assert [sample.source for sample in found] == [f"BUS-BRA, case {number}" for number in (83, 124, 167, 173)]
    assert busseg.samples is samples


def test_samples_meet_the_criteria_of_their_notice():
    for sample in samples():
        image = read_image(sample.path)
        mask = read_mask([sample.mask], image.shape)
        assert 250 <= min(image.shape) <= max(image.shape) <= 600
        assert 0.05 <= mask.mean() <= 0.25
        assert mask[10:-10, 10:-10].sum() == mask.sum()  # 10 px from every border
        assert not has_marks(image)


def test_notice_has_licence_citation_and_every_patient():
    notice = (SAMPLES / "NOTICE").read_text(encoding="utf-8")
    assert "Copyright (c) 2023" in notice
    assert "Permission is hereby granted, free of charge" in notice
    assert "https://doi.org/10.1002/mp.16812" in notice
    for sample in samples():
        assert f"\n  {sample.source.split()[-1]:<5} {sample.path.stem}  {sample.label}" in notice


def test_samples_are_a_dataset_folder_of_less_than_400_kb():
    assert [sample.image for sample in find_samples(SAMPLES)] == [sample.path for sample in samples()]
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 400_000


def test_samples_are_the_files_of_bus_bra(busbra_folder):
    whole = {sample.image.name: sample for sample in find_samples(busbra_folder)}
    for sample in samples():
        original = whole[sample.path.name]
        assert (original.label, original.group) == (sample.label, sample.source.split()[-1])
        for ours, theirs in ((sample.path, original.image), (sample.mask, original.masks[0])):
            assert hashlib.sha256(ours.read_bytes()).digest() == hashlib.sha256(theirs.read_bytes()).digest()


def test_patients_of_the_samples_are_a_column_of_their_table():
    with (SAMPLES / "labels.csv").open() as table:
        assert {row["group"] for row in csv.DictReader(table)} == {"83", "124", "167", "173"}


def test_samples_load_neither_keras_nor_a_drawing_library():
    code = "import busseg, sys; busseg.samples(); print(sys.modules.keys() & {'keras', 'tensorflow', 'matplotlib'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
