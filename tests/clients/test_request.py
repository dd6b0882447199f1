import numpy as np
import pytest

from rfserve.clients.errors import EventError, InvalidAnswer
from rfserve.clients.request import Question, ensemble, fixes, tensors
from rfserve.export.spec import ENSEMBLES, TensorError, find


@pytest.mark.parametrize("model", ENSEMBLES)
def test_tensors_fit_the_spec_of_every_ensemble(observe, model):
    spec = ensemble(model)
    made = tensors(spec, [[observe()], [observe(latitude_deg=46.0)]])
    spec.check(made)
    assert set(made) == {t.name for t in spec.inputs}
    for tensor in spec.inputs:
        assert made[tensor.name].shape == tensor.shape(2, spec.served_sizes)
        assert made[tensor.name].flags.c_contiguous


def test_tensors_hold_receivers_first_and_padding_after(observe):
    seen = [
        observe(latitude_deg=45.0 + i, altitude_m=10.0 * i, sample_rate_hz=1e6 + i, full_scale_dbm=-10.0 - i)
        for i in range(3)
    ]
    made = tensors(ensemble("locate"), [seen])
    np.testing.assert_array_equal(made["mask"][0], [True] * 3 + [False] * 7)
    np.testing.assert_array_equal(made["receiver_ids"][0, :3], [0, 1, 2])
    np.testing.assert_allclose(made["receiver_positions"][0, :3], [[45, 7.5, 0], [46, 7.5, 10], [47, 7.5, 20]])
    np.testing.assert_array_equal(made["full_scale_dbm"][0, :3], [-10, -11, -12])
    np.testing.assert_array_equal(made["sample_rate_hz"][0, :3], [1e6, 1e6 + 1, 1e6 + 2])
    np.testing.assert_array_equal(made["raw_iq"][0, 1, 0] + 1j * made["raw_iq"][0, 1, 1], seen[1].iq)
    for name, values in made.items():
        assert not values[0, 3:].any(), name


def test_tensors_have_one_shape_whatever_the_number_of_receivers(observe):
    shapes = {
        count: {k: v.shape for k, v in tensors(ensemble("locate"), [[observe()] * count]).items()}
        for count in (1, 4, 10)
    }
    assert shapes[1] == shapes[4] == shapes[10]


def test_tensors_hold_the_receivers_alone_when_not_padded(observe):
    padded, made = (
        tensors(ensemble("locate"), [[observe()] * 2, [observe()] * 3], pad_receivers=p) for p in (True, False)
    )
    assert made["mask"].tolist() == [[True, True, False], [True] * 3]
    for name, values in made.items():
        np.testing.assert_array_equal(values, padded[name][:, :3])
    (one,) = tensors(ensemble("locate_spectrogram"), [[observe()]], pad_receivers=False).values()
    assert one.shape == (1, 2, 16384)


def test_receiver_ids_are_those_given_else_the_place(observe):
    made = tensors(ensemble("locate"), [[observe(receiver_id=7), observe(), observe(receiver_id=0)]])
    np.testing.assert_array_equal(made["receiver_ids"][0, :3], [7, 1, 0])


def test_full_scale_is_zero_when_uncalibrated(observe):
    assert tensors(ensemble("locate"), [[observe()]])["full_scale_dbm"][0, 0] == 0


@pytest.mark.parametrize(
    ("model", "counts", "text"),
    [
        ("locate", [], "no observation"),
        ("locate", [2, 0], "no observation"),
        ("locate", [11], "up to 10 receivers, got 11"),
        ("locate_spectrogram", [2], "takes one receiver, got 2"),
    ],
)
def test_tensors_are_refused_when_the_receivers_do_not_fit(observe, model, counts, text):
    with pytest.raises(EventError, match=text):
        tensors(ensemble(model), [[observe()] * count for count in counts])


def test_tensors_are_refused_when_lengths_differ(observe):
    with pytest.raises(EventError, match=r"\[4096, 16384\] samples"):
        tensors(ensemble("locate"), [[observe(), observe(samples=4096)]])


def test_tensors_are_refused_when_an_id_is_out_of_range(observe):
    with pytest.raises(EventError, match="expected 0 to 9"):
        tensors(ensemble("locate"), [[observe(receiver_id=10)]])


@pytest.mark.parametrize(("model", "samples"), [("locate", 1023), ("locate_spectrogram", 4095), ("locate", 65537)])
def test_tensors_are_refused_when_the_length_is_out_of_bounds(observe, model, samples):
    with pytest.raises(TensorError, match="raw_samples"):
        tensors(ensemble(model), [[observe(samples=samples)]])


def test_tensors_are_refused_when_the_batch_is_too_large(observe):
    with pytest.raises(TensorError, match="batch 33"):
        tensors(ensemble("locate_spectrogram"), [[observe()]] * 33)


def test_ensemble_is_refused_when_the_model_takes_tensors():
    with pytest.raises(TensorError, match="use infer"):
        ensemble("heimdall_net")


ANSWER = {
    "positions": np.array([[45.1, 7.6], [np.nan, 7.6], [46.0, 8.0], [95.0, 7.6]], np.float32),
    "uncertainties": np.array([[30, 20], [30, 20], [5, np.inf], [30, 20]], np.float32),
}


def read(rows):
    chosen = {name: values[rows] for name, values in ANSWER.items()}
    return fixes(chosen, model="locate", version="3", request_id="abc", timings_ms={})


def test_fixes_are_one_for_each_row():
    (first, second) = read([0, 0])
    assert first == second
    assert (first.latitude_deg, first.sigma_north_m, first.sigma_east_m) == (pytest.approx(45.1, abs=2e-6), 30, 20)


def test_fixes_name_every_row_that_is_none():
    with pytest.raises(InvalidAnswer, match=r"3 of 4 rows .*row 1: .*row 2: .*row 3: ") as caught:
        read([0, 1, 2, 3])
    assert "row 0" not in str(caught.value)


def test_fixes_are_refused_when_the_answer_has_another_shape():
    with pytest.raises(InvalidAnswer, match=r"expected \(batch, 2\)"):
        fixes(
            {"positions": np.zeros((2, 3)), "uncertainties": np.zeros((2, 3))},
            model="locate",
            version="3",
            request_id="",
            timings_ms={},
        )


def test_question_makes_an_id_of_its_own_when_none_is_given(observe):
    asked = [Question("locate", [[observe()]], name) for name in (None, None, "mine")]
    assert len({q.request_id for q in asked}) == 3
    assert asked[2].request_id == "mine"
    (fix,) = asked[2].fixes(dict.fromkeys((t.name for t in find("locate").outputs), np.ones((1, 2))), "3")
    assert set(fix.timings_ms) == {"prepare", "round_trip"}
