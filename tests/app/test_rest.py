import json

import pytest

from busseg.inference.predictor import Predictor

pytest.importorskip("gradio")


def post(server, *contents, query="", name="a.png", **headers):
    """Status and JSON of the answer to a request with files."""
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = b"".join(b"--x\r\n" + head + content + b"\r\n" for content in contents) + b"--x--"
    kind = "multipart/form-data; boundary=x"
    answer = server.request("POST", f"/api/predict{query}", body, Content_Type=kind, **headers)
    return answer.status, json.loads(answer.text) if answer.headers[
        "Content-Type"
    ] == "application/json" else answer.text


def test_file_is_answered_as_by_predict_and_deleted(server, scans):
    predicted = Predictor("best").predict(scans["malignant"])
    status, answer = post(server, scans["malignant"].read_bytes(), name="malignant.png")
    assert (status, answer["file"], answer["label"]) == (200, "malignant.png", "malignant")
    assert answer["lesion_px"] == predicted.lesion_px
    assert answer["mask"].startswith("data:image/png;base64,")
    assert server.left() == []


def test_threshold_is_a_parameter(server, scans):
    expected = (Predictor("best").predict(scans["benign"]).probability_map >= 0.9).sum()
    status, answer = post(server, scans["benign"].read_bytes(), query="?threshold=0.9")
    assert (status, answer["lesion_px"]) == (200, expected)


@pytest.mark.parametrize("query", ["?threshold=0", "?threshold=1.5", "?frame=0", "?threshold=much"])
def test_parameter_out_of_its_range_is_refused(server, scans, query):
    assert post(server, scans["benign"].read_bytes(), query=query)[0] == 422


def test_what_cannot_be_predicted_gets_one_line_without_a_path_of_the_server(server, foul):
    answer = post(server, foul["text"].read_bytes(), name="text.png")
    assert answer == (422, {"detail": "Expected an image or a video, found text: text.png"})
    assert server.left() == []


def test_other_number_of_files_than_one_is_refused(server, scans):
    content = scans["benign"].read_bytes()
    assert post(server, content, content) == (400, {"detail": "Expected one file, found 2"})
    assert server.left() == []


def test_large_file_is_refused(server):
    answer = post(server, bytes(50_000_001))
    assert answer == (413, {"detail": "Expected files of at most 50 MB, found more: a.png"})
    assert server.left() == []


def test_request_of_another_page_is_refused(server, scans):
    status, _ = post(server, scans["benign"].read_bytes(), Origin="http://elsewhere.example")
    assert status == 403


def test_openapi_describes_the_one_endpoint_and_its_file(server):
    found = json.loads(server.request("GET", "/api/openapi.json").text)
    assert list(found["paths"]) == ["/api/predict"]
    operation = found["paths"]["/api/predict"]["post"]
    body = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["files"]["format"] == "binary"
    assert [parameter["name"] for parameter in operation["parameters"]] == ["threshold", "frame"]
    assert {"200", "400", "413", "422", "503"} <= operation["responses"].keys()
