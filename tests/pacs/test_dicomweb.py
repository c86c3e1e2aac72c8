import io
import ssl
import tempfile

import pytest
from typer.testing import CliRunner

from busseg.cli import app
from busseg.pacs import dicomweb

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
pytest.importorskip("dicomweb_client", reason="needs busseg[pacs]")

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


@pytest.fixture
def run(pacs, study, answerer, monkeypatch, patient):
    """Function that runs `busseg dicomweb` on the study, as `(status, output)`. No output names the patient."""
    monkeypatch.setattr("busseg.cli.pacs.load_predictor", lambda _: answerer.predictor)

    def call(*options, url=pacs.url, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(app, ["dicomweb", url, "--study", study.uid, "--model", "small", *options])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert not any(value in done.output for value in (*patient.values(), "Traceback"))
        return done.exit_code, done.output

    return call


def results(pacs, study):
    return [content for uid, content in pacs.objects.items() if uid not in study.uids]


def test_each_image_gets_seg_and_sr_under_its_study(run, pacs, study, classes):
    status, output = run()
    assert (status, "Stored 4 objects for 3 images" in output) == (0, True)
    assert classes(results(pacs, study)) == {"SEG": 2, "SR": 2, "SC": 0}  # the third is no breast ultrasound
    assert f"no SEG or SR is stored: {study.unlike}" in output
    for content in results(pacs, study):
        assert pydicom.dcmread(io.BytesIO(content)).StudyInstanceUID == study.uid


def test_same_study_again_stores_and_retrieves_nothing(run, pacs, study):
    run()
    before, pacs.asked = dict(pacs.objects), []
    status, output = run()
    assert (status, "Stored 0 objects for 3 images" in output) == (0, True)
    assert pacs.objects == before
    retrieved = [path.rsplit("/", 1)[1] for _, path, _ in pacs.asked if "/instances?" not in path]
    assert retrieved == [study.unlike]  # which has no results


def test_secondary_captures_are_added_to_a_study_that_has_seg_and_sr(run, pacs, study, classes):
    run()
    assert "Stored 2 objects for 3 images" in run("--secondary-capture")[1]
    assert classes(results(pacs, study)) == {"SEG": 2, "SR": 2, "SC": 2}


def test_images_of_other_series_are_left_alone(pacs, study):
    server = dicomweb.open_server(pacs.url)
    assert len(dicomweb.find_images(server, study.uid, study.series)[0]) == 3
    with pytest.raises(ValueError, match=r"^Expected ultrasound images, found none among 3 objects: 1.2.3$"):
        dicomweb.find_images(server, study.uid, "1.2.3")


def test_pages_of_a_search_are_joined(pacs, study):
    pacs.page = 1
    images, stored = dicomweb.find_images(dicomweb.open_server(pacs.url), study.uid)
    assert ({image.uid for image in images}, stored) == (set(study.uids), set(study.uids))


def test_search_that_is_no_dicom_is_one_line(pacs, study, monkeypatch):
    server = dicomweb.open_server(pacs.url)
    rows = [{"00080018": {"Value": ["1.2"]}, "00280008": {"Value": ["Muster"]}, "00080016": {"Value": [ULTRASOUND]}}]
    monkeypatch.setattr(server.client, "search_for_instances", lambda *_, offset, **__: rows[offset:])
    with pytest.raises(ValueError, match=r"^Expected DICOM that can be read, found other content \(ValueError\): http"):
        dicomweb.find_images(server, study.uid)


def test_search_on_a_server_without_pages_ends(pacs, study, monkeypatch):
    server = dicomweb.open_server(pacs.url)
    search = server.client.search_for_instances
    monkeypatch.setattr(server.client, "search_for_instances", lambda study, offset, fields: search(study, offset=0))
    assert len(dicomweb.find_images(server, study.uid)[0]) == 3


@pytest.mark.parametrize(("fault", "line"), [
    ("broken", "Expected DICOM that can be read, found other content (InvalidDicomError)"),
    ("missing", "Expected a DICOMweb server that consents, found 404 Not Found"),
])  # fmt: skip
def test_one_image_that_cannot_be_retrieved_does_not_stop_the_study(run, pacs, study, fault, line):
    setattr(pacs, fault, {study.uids[0]})
    status, output = run()
    assert status == 1
    assert f"busseg: skipped: {line}: {study.uids[0]}\n" in output
    assert "Stored 2 objects for 3 images" in output
    assert "1 of 3 images have no results" in output


def test_refused_results_fail_their_image_and_are_stored_by_the_next_run(run, pacs, study, classes):
    pacs.refused = {"1.2.840.10008.5.1.4.1.1.88.33"}
    status, output = run()
    assert (status, output.count("found a refusal (0xA700)")) == (1, 2)
    assert classes(results(pacs, study)) == {"SEG": 2, "SR": 0, "SC": 0}
    pacs.refused = set()
    assert "Stored 2 objects" in run()[1]


def test_run_that_is_stopped_stores_each_result_once_with_the_next(
    run, pacs, study, answerer, classes, tmp_path, monkeypatch
):
    predict = type(answerer.predictor).try_batch
    calls = []

    def stop_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*arguments)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(type(answerer.predictor), "try_batch", stop_at_the_third)
        assert run()[0] == 130
    assert list(tmp_path.iterdir()) == []
    stored = len(results(pacs, study))
    assert stored in (2, 4)  # of two images, perhaps one of them the one without results
    assert f"Stored {4 - stored} objects for 3 images" in run()[1]
    assert classes(results(pacs, study)) == {"SEG": 2, "SR": 2, "SC": 0}


def test_busy_server_is_asked_again(run, pacs, study, answerer):
    server = dicomweb.open_server(pacs.url)
    images, stored = dicomweb.find_images(server, study.uid)
    pacs.busy = 2
    (outcome,) = dicomweb.answer_images(server, study.uid, images[:1], stored, answerer)
    assert (outcome.error, pacs.busy) == (None, 0)


def test_server_that_does_not_answer_is_one_line(run):
    with pytest.raises(ConnectionError, match=r"^Expected a DICOMweb server that answers, found none \(ConnectionErr"):
        run(url="http://127.0.0.1:9/dicom")


# === Access ===
def test_token_comes_from_the_environment_and_is_never_printed(run, pacs):
    pacs.authorization = "Bearer s3cret"
    with pytest.raises(ValueError, match=r"^Expected a DICOMweb server that consents, found 401 Unauthorized: http://"):
        run()
    status, output = run(BUSSEG_DICOMWEB_TOKEN="s3cret")
    assert (status, "s3cret" in output) == (0, False)


def test_login_comes_from_the_environment(pacs, study):
    pacs.authorization = "Basic bWU6czM6Y3JldA=="  # me:s3:cret
    server = dicomweb.open_server(pacs.url, environment={"BUSSEG_DICOMWEB_LOGIN": "me:s3:cret"})
    assert len(dicomweb.find_images(server, study.uid)[0]) == 3


def test_login_travels_as_utf8(pacs, study):
    pacs.authorization = "Basic w6Q64oKs"
    server = dicomweb.open_server(pacs.url, environment={"BUSSEG_DICOMWEB_LOGIN": "ä:€"})
    assert len(dicomweb.find_images(server, study.uid)[0]) == 3


@pytest.mark.parametrize(("name", "secret", "line"), [
    ("TOKEN", "s3cret\n", "Expected ASCII characters without blanks in BUSSEG_DICOMWEB_TOKEN, found others"),
    ("TOKEN", "s3crèt", "Expected ASCII characters without blanks in BUSSEG_DICOMWEB_TOKEN, found others"),
    ("LOGIN", "s3cret", "Expected user:password in BUSSEG_DICOMWEB_LOGIN, found no colon"),
])  # fmt: skip
def test_malformed_secret_is_refused_and_not_printed(name, secret, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        dicomweb.open_server("https://pacs.example", environment={f"BUSSEG_DICOMWEB_{name}": secret})


def test_secret_does_not_travel_unencrypted_to_another_machine():
    with pytest.raises(
        ValueError, match=r"^Expected https for a token or a login, found http: http://192.0.2.1/dicom$"
    ):
        dicomweb.open_server("http://192.0.2.1/dicom", environment={"BUSSEG_DICOMWEB_TOKEN": "s3cret"})
    dicomweb.open_server("https://192.0.2.1/dicom", environment={"BUSSEG_DICOMWEB_TOKEN": "s3cret"})


def test_password_in_the_address_is_refused_and_not_printed():
    with pytest.raises(ValueError, match=r"^Expected a URL without a password, found one with it; ") as raised:
        dicomweb.open_server("https://me:s3cret@pacs.example/dicom")
    assert "s3cret" not in str(raised.value)
    with pytest.raises(ValueError, match=r"^Expected a URL of http or https, found another with a user in it$"):
        dicomweb.open_server("me:s3cret@pacs.example/dicom")


@pytest.mark.parametrize(
    "url",
    [
        "pacs.example/dicom",
        "ftp://pacs.example",
        "https://",
        "https://pacs.example:99999",
        "https://a:b",
        "https://[::1",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match=r"^Expected a URL of http or https, found "):
        dicomweb.open_server(url)


def test_missing_or_broken_pem_file_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected a PEM file, found none: .*ca\.pem$"):
        dicomweb.open_server("https://pacs.example", tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text("x")
    with pytest.raises(OSError, match=r"^Expected a PEM file of authorities, found another: .*ca\.pem$"):
        dicomweb.open_server("https://pacs.example", tmp_path / "ca.pem")


def test_server_and_client_know_each_other_by_their_certificates(secure_pacs, study, pem, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().cafile or "")  # which must not win
    server = dicomweb.open_server(secure_pacs.url, pem.ca, pem.certificate, pem.key)
    assert len(dicomweb.find_images(server, study.uid)[0]) == 3
    for others in ([], [pem.ca]):  # unknown to the system's authorities; without a certificate of its own
        with pytest.raises(ConnectionError, match=r"^Expected a DICOMweb server that answers, found none \("):
            dicomweb.find_images(dicomweb.open_server(secure_pacs.url, *others), study.uid)


@pytest.mark.parametrize("options", [["--study", "../1"], ["--series", "x"], ["--series", ""]])
def test_uids_of_other_letters_are_refused(run, options):
    with pytest.raises(ValueError, match=r"^Expected a S[a-z]+ Instance UID of digits and dots, found "):
        run(*options)
