import pytest

from busseg.data.sample import CLASSES
from busseg.evaluation.table import fields, read_rows, write_rows

HEADER = (
    "file,repeat,fold,part,group,source,patient,birads,histology,device,side,pixel_mm,label,predicted,p_normal,p_benign,p_malignant,"
    "dice,iou,sensitivity,precision,hd95_px,assd_px,nsd,clean,true_px,predicted_px,width_px,height_px,mask,leaked,known,error"
)


def test_columns_are_those_that_are_documented():
    assert ",".join(fields(CLASSES)) == HEADER


def test_histology_has_no_columns_of_lesions():
    names = HEADER.replace("p_normal,", "").split(",")
    assert list(fields(("benign", "malignant"))) == [*names[: names.index("dice")], *names[names.index("leaked") :]]


def test_rows_are_read_back_with_their_types(tmp_path):
    row = dict.fromkeys(fields(CLASSES)) | {"file": "a.png", "fold": 3, "p_benign": 0.1, "clean": True, "true_px": 7}
    write_rows(tmp_path / "t.csv", [row])
    assert read_rows(tmp_path / "t.csv") == [row]


def test_older_table_without_the_later_columns_is_read(tmp_path):
    names = "file,fold,part,group,label,predicted,p_normal,p_benign,p_malignant," + HEADER.partition("p_malignant,")[2]
    names = names.replace(",known", "")
    cells = dict.fromkeys(names.split(","), "") | {"file": "a.png", "dice": "0.5"}
    (tmp_path / "t.csv").write_text(names + "\n" + ",".join(cells.values()) + "\n")
    assert read_rows(tmp_path / "t.csv") == [dict.fromkeys(HEADER.split(",")) | {"file": "a.png", "dice": 0.5}]


def test_table_that_lacks_a_column_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER.replace("hd95_px,", "") + "\n")
    with pytest.raises(ValueError, match=r"the column 'hd95_px', found file,.*: .*t\.csv$"):
        read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(("column", "cell"), [("dice", "good"), ("fold", "1.5"), ("true_px", "many"), ("clean", "yes")])
def test_table_with_other_cells_is_refused(tmp_path, column, cell):
    cells = dict.fromkeys(HEADER.split(","), "") | {column: cell}
    (tmp_path / "t.csv").write_text(HEADER + "\n" + ",".join(cells.values()) + "\n")
    with pytest.raises(ValueError, match=rf"^Expected .*{cell}.*: .*t\.csv$"):
        read_rows(tmp_path / "t.csv")
