from busseg.evaluation.comparability import notes_on_unknown, warnings_of_known

MODELS = [
    {"name": "old", "known": None},
    {"name": "best", "known": {"images": 2, "share": 1.0, "warning": "2 of 2 are known."}},
    {"name": "new", "known": {"images": 0, "share": 0.0, "warning": None}},
]


def test_model_that_knows_its_images_is_warned_of_by_name():
    assert warnings_of_known(MODELS) == ["best: 2 of 2 are known."]
    assert warnings_of_known(MODELS[::2]) == []


def test_models_that_do_not_say_what_they_know_are_named_in_one_line():
    assert notes_on_unknown(MODELS) == ["Unknown: the training images of old."]
    assert notes_on_unknown(MODELS[1:]) == []
