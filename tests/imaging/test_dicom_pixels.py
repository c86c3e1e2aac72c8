import numpy as np
import pytest
from PIL import Image

from busseg.imaging.dicom import read_dicom
from busseg.imaging.images import read_image

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
GREY = np.uint8([[0, 50, 100], [127, 128, 255]])


def colours():
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)


def as_image(tmp_path, pixels):
    """The grey values that the same colours have as a PNG."""
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return read_image(tmp_path / "a.png").astype(int)


def test_grey_values_come_back(tmp_path, write_scan):
    scan = read_dicom(write_scan(tmp_path / "a.dcm", GREY))
    assert (scan.frame_count, scan.shape, scan.region, scan.spacing_mm) == (1, (2, 3), (0, 0, 3, 2), None)
    np.testing.assert_array_equal(scan.read_frame(), GREY)
    assert scan.read_frame().dtype == np.uint8


def test_monochrome1_is_white_where_it_stores_0(tmp_path, write_scan):
    path = write_scan(tmp_path / "a.dcm", GREY, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_dicom(path).read_frame(), 255 - GREY)


@pytest.mark.parametrize(
    ("values", "attributes", "expected"),
    [
        ([0, 32768, 65535], {}, [0, 128, 255]),  # 255 * 32768 / 65535 = 127.5, to the even one
        ([0, 2048, 4095], {"BitsStored": 12}, [0, 128, 255]),  # 255 * 2048 / 4095 = 127.53
        # A window from 100 to 300: its middle is 200, and what lies without is black or white.
        ([0, 100, 150, 300, 4000], {"BitsStored": 12, "WindowCenter": 200.5, "WindowWidth": 201}, [0, 0, 64, 255, 255]),
        # Twice the value, less 100: from -100 to 8090.
        ([0, 1000, 4095], {"BitsStored": 12, "RescaleSlope": 2, "RescaleIntercept": -100}, [0, 62, 255]),
    ],
)
def test_more_than_8_bits_are_shown_as_the_file_says(tmp_path, write_scan, values, attributes, expected):
    path = write_scan(tmp_path / "a.dcm", np.uint16([values]), **attributes)
    np.testing.assert_array_equal(read_dicom(path).read_frame(), [expected])


def test_table_of_the_file_is_applied(tmp_path, write_scan):
    table = pydicom.Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTData = np.uint16([0, 65535, 32768, 257]).tobytes()  # 257 * 255 / 65535 = 1
    table["LUTData"].VR = "OW"
    path = write_scan(tmp_path / "a.dcm", np.uint8([[0, 1, 2, 3]]), VOILUTSequence=[table])
    np.testing.assert_array_equal(read_dicom(path).read_frame(), [[0, 255, 128, 1]])


def test_colours_are_as_grey_as_those_of_an_image(tmp_path, write_scan):
    read = read_dicom(write_scan(tmp_path / "a.dcm", colours())).read_frame()
    np.testing.assert_array_equal(read, as_image(tmp_path, colours()))


def test_ybr_is_turned_to_the_same_grey(tmp_path, write_scan):
    ybr = np.asarray(Image.fromarray(colours()).convert("YCbCr"))
    read = read_dicom(write_scan(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL")).read_frame()
    assert np.abs(read - as_image(tmp_path, colours())).max() <= 2  # rounded once more


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 257)])
def test_palette_is_looked_up(tmp_path, write_scan, bits, scale):
    entries = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    palette = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        values = entries[:, channel].astype(f"<u{bits // 8}") * scale
        palette[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    index = np.arange(256, dtype=np.uint8).reshape(8, 32)
    path = write_scan(tmp_path / "a.dcm", index, PhotometricInterpretation="PALETTE COLOR", **palette)
    np.testing.assert_array_equal(read_dicom(path).read_frame(), as_image(tmp_path, entries[index]))


@pytest.mark.parametrize(
    ("syntax", "format", "options", "loss"),
    [
        ("JPEGBaseline8Bit", "JPEG", {"quality": 95}, 8),
        ("JPEG2000Lossless", "JPEG2000", {"irreversible": False, "no_jp2": True}, 0),
        ("JPEG2000", "JPEG2000", {"irreversible": True, "no_jp2": True, "quality_layers": [4]}, 8),
    ],
)
def test_compressed_clip_comes_back_frame_by_frame(
    encode, tmp_path, write_scan, phantom, syntax, format, options, loss
):
    frames = [phantom, 255 - phantom]
    encoded = [encode(frame, format, **options) for frame in frames]
    path = write_scan(
        tmp_path / "a.dcm", encoded, Rows=60, Columns=80, transfer_syntax=getattr(pydicom.uid, syntax)
    )  # fmt: skip
    scan = read_dicom(path)
    assert scan.frame_count == 2
    for number, frame in enumerate(frames, start=1):
        assert np.abs(scan.read_frame(number).astype(int) - frame).max() <= loss


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless"])
def test_lossless_clip_comes_back_exactly(tmp_path, write_scan, phantom, syntax):
    path = write_scan(tmp_path / "a.dcm", np.stack([phantom, 255 - phantom]))
    scan = pydicom.dcmread(path)
    scan.compress(getattr(pydicom.uid, syntax))
    scan.save_as(path)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.keyword == syntax
    np.testing.assert_array_equal(read_dicom(path).read_frame(1), phantom)
    np.testing.assert_array_equal(read_dicom(path).read_frame(2), 255 - phantom)


# The same test card, red, green, blue, in all transfer syntaxes that pydicom's own package holds: their answers agree.
CARDS = [
    "SC_rgb_dcmtk_+eb+cr.dcm",  # JPEG of RGB
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",  # JPEG of YBR_FULL
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",  # JPEG of YBR_FULL_422
    "SC_rgb_jpeg_gdcm.dcm",  # lossless JPEG
    "SC_rgb_gdcm_KY.dcm",  # JPEG 2000
    "SC_rgb_jls_lossy_line.dcm",  # JPEG-LS
    "SC_rgb_rle_16bit.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
]


@pytest.mark.parametrize("name", CARDS)
def test_test_card_is_the_same_in_every_transfer_syntax(tmp_path, wheel, name):
    if name == "SC_rgb_jpeg_gdcm.dcm":
        pytest.importorskip("gdcm", reason="needs busseg[dicom]")
    cards = []
    for card in ("SC_rgb_rle.dcm", name):
        scan = pydicom.dcmread(wheel(card))
        scan.SOPClassUID, scan.StudyInstanceUID, scan.SeriesInstanceUID = ULTRASOUND, "1.2.3", "1.2.4"
        scan.save_as(tmp_path / card)
        cards.append(read_dicom(tmp_path / card).read_frame().astype(int))
    assert np.abs(cards[0] - cards[1]).max() <= 8  # of the lossy ones
    assert len(np.unique(cards[0])) > 5


@pytest.mark.parametrize(
    ("name", "frames", "shape", "region"),
    [
        # Both were cut or shrunk by those who gave them: the regions of the clip are of a frame twice as large.
        ("examples_ybr_color.dcm", 30, (240, 320), (0, 0, 320, 240)),
        ("examples_palette.dcm", 1, (350, 800), (120, 60, 680, 290)),
        ("examples_rgb_color.dcm", 1, (240, 320), (0, 0, 320, 240)),
        ("examples_jpeg2k.dcm", 1, (480, 640), (0, 0, 640, 480)),
        ("ExplVR_BigEnd.dcm", 1, (60, 80), (0, 0, 80, 60)),
    ],
)
def test_scans_in_pydicoms_own_package_are_read(wheel, name, frames, shape, region):
    scan = read_dicom(wheel(name))
    assert (scan.frame_count, scan.shape, scan.region, scan.spacing_mm) == (frames, shape, region, None)
    first, last = scan.read_frame(1), scan.read_frame(frames)
    assert first.shape == last.shape == shape
    assert first.std() > 5
    assert (frames == 1) == bool((first == last).all())
