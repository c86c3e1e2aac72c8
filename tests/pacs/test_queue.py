import pytest

from busseg.pacs.queue import Queue

UID = "1.2.3"


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path, "model 1")


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    files = [folder / name for name in ("a_seg.dcm", "a_sr.dcm")]
    for file in files:
        file.write_text(file.name)
    return files


def tree(folder):
    """The files of the queue, with their content."""
    states = ("received", "to_send", "answered", "failed")
    files = (path for state in states for path in sorted((folder / state).rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_image_goes_from_state_to_state(queue, results, tmp_path):
    assert queue.add(UID, b"image")
    assert tree(tmp_path) == {f"received/{UID}.dcm": "image"}
    queue.keep_results(UID, results)
    assert tree(tmp_path) == {f"to_send/{UID}/{name}": name for name in ("a_seg.dcm", "a_sr.dcm")}
    queue.finish(UID)
    assert tree(tmp_path) == {f"answered/{UID}": "model 1"}
    assert (queue.received(), queue.to_send()) == ([], [])


def test_image_that_waits_or_is_answered_is_not_taken_again(queue, results):
    assert queue.add(UID, b"image")
    assert not queue.add(UID, b"image")
    queue.keep_results(UID, results)
    assert not queue.add(UID, b"image")
    queue.finish(UID)
    assert not queue.add(UID, b"image")


def test_image_that_another_model_answered_is_taken_again(queue, results, tmp_path):
    queue.add(UID, b"image")
    queue.keep_results(UID, results)
    queue.finish(UID)
    assert Queue(tmp_path, "model 2").add(UID, b"image")


def test_failed_image_stays_with_its_reason_and_may_come_again(queue, tmp_path):
    queue.add(UID, b"image")
    queue.fail(UID, "broken")
    assert tree(tmp_path) == {f"failed/{UID}.dcm": "image", f"failed/{UID}.txt": "broken\n"}
    assert queue.add(UID, b"better")
    assert tree(tmp_path) == {f"received/{UID}.dcm": "better"}


def test_failed_results_stay_with_their_reason(queue, results, tmp_path):
    queue.add(UID, b"image")
    queue.keep_results(UID, results)
    queue.fail(UID, "refused")
    assert sorted(tree(tmp_path)) == [f"failed/{UID}.txt", f"failed/{UID}/a_seg.dcm", f"failed/{UID}/a_sr.dcm"]
    assert queue.add(UID, b"image")
    assert sorted(tree(tmp_path)) == [f"received/{UID}.dcm"]


def test_images_are_in_the_order_of_their_arrival(queue):
    for uid in ("1.3", "1.1", "1.2"):
        queue.add(uid, b"image")
    assert [path.stem for path in queue.received()] == ["1.3", "1.1", "1.2"]


def test_other_files_in_a_queue_are_left_alone(queue, tmp_path):
    for path in ("received/mine.dcm", "received/1.2.3.txt", "to_send/1.2.3"):
        (tmp_path / path).write_text("mine")
    (tmp_path / "to_send/mine").mkdir()
    assert (queue.received(), queue.to_send()) == ([], [])


def test_image_that_a_kill_left_beside_its_results_is_dropped(queue, results, tmp_path):
    queue.add(UID, b"image")
    queue.keep_results(UID, results)
    (tmp_path / f"received/{UID}.dcm").write_text("image")  # as before its removal
    again = Queue(tmp_path, "model 1")
    assert again.received() == []
    assert [folder.name for folder in again.to_send()] == [UID]
