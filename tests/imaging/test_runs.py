import numpy as np
import pytest

from busseg.imaging.annotations.runs import (
    compress,
    decompress,
    from_coco,
    from_counts,
    from_label_studio,
    to_counts,
    to_label_studio,
)


def random_mask(seed, shape=(37, 53), share=0.5):
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "counts"),
    [([0, 0, 1], [2, 1]), ([1, 1, 0], [0, 2, 1]), ([0, 0], [2]), ([1], [0, 1])],
)
def test_runs_begin_without_lesion(values, counts):
    assert to_counts(np.uint8(values)) == counts
    assert from_counts(counts, len(values)).tolist() == values


@pytest.mark.parametrize("counts", [[2], [2, 2], [-1, 4], [[3]]])
def test_runs_that_do_not_fill_the_image_are_refused(counts):
    with pytest.raises(ValueError, match=r"^Expected run lengths of 3 pixels together, found"):
        from_counts(counts, 3)


def test_coco_counts_column_by_column():
    # Columns: 0 1, 1 0, 0 0 -> 1 without, 2 with, 3 without.
    mask = from_coco({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert mask.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1])
def test_compressed_runs_are_those_of_pycocotools(share):
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    mask = random_mask(1, (400, 300), share)
    mask[50:350, 20:200] = 1
    text = coco.encode(np.asfortranarray(mask))["counts"].decode()
    assert compress(to_counts(mask.T.ravel())) == text
    np.testing.assert_array_equal(from_coco({"size": [400, 300], "counts": text}, (400, 300)), mask)


@pytest.mark.parametrize("counts", [[0, 5], [7, 1, 3, 100_000, 2, 1, 1], [5, 4, 3, 2, 1, 40, 2]])
def test_compressed_runs_come_back(counts):
    assert decompress(compress(counts)) == counts


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_mask_of_label_studio_comes_back(share):
    mask = random_mask(2, (300, 400), share)
    np.testing.assert_array_equal(from_label_studio(to_label_studio(mask), mask.shape), mask)


def test_label_studio_reads_bytes_written_bit_by_bit():
    # 8 values of 8 bits; lengths of 1, 2, 3 and 4 bits. A run of 4 zeros: 1, size 1 (2 bits), 3, 0.
    # Then 4 single values: 0, size 1, 3, and 10, 20, 30, 255, of which the last is the opacity.
    bits = f"{8:032b}{7:05b}{0:04b}{1:04b}{2:04b}{3:04b}" + f"1{1:02b}{3:02b}{0:08b}"
    bits += f"0{1:02b}{3:02b}" + "".join(f"{value:08b}" for value in (10, 20, 30, 255))
    rle = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert from_label_studio(rle, (1, 2)).tolist() == [[0, 1]]


@pytest.mark.parametrize("cut", [3, 9, 20])
def test_broken_mask_of_label_studio_is_refused(cut):
    rle = to_label_studio(random_mask(3))
    with pytest.raises(ValueError, match=r"^Expected a mask of 37 x 53 pixels, found one that ends too early$"):
        from_label_studio(rle[:cut], (37, 53))
    with pytest.raises(ValueError, match=r"^Expected a mask of 1 x 2 pixels, found 7844 values$"):  # 4 * 37 * 53
        from_label_studio(rle, (1, 2))
