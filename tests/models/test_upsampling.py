import keras
import numpy as np
import pytest

from busseg.models.upsampling import BilinearUpSampling


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (6, 4)])
def test_it_computes_what_keras_does_where_that_knows_the_size(factor, shape):
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    expected = keras.layers.UpSampling2D(factor, interpolation="bilinear")(x)
    found = BilinearUpSampling(factor)(x)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (found, expected)), atol=1e-6)


def test_a_step_becomes_a_ramp():
    found = BilinearUpSampling(2)(np.float32([[[[0], [1]]]]))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found)[0, :, :, 0], [[0, 0.25, 0.75, 1]] * 2)


def test_saved_layer_comes_back(tmp_path):
    image = keras.Input((None, None, 1))
    model = keras.Model(image, BilinearUpSampling(4, name="up")(image))
    assert model.output_shape == (None, None, None, 1)
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 1)).astype(np.float32)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("factor", [0, 1, 3])
def test_factor_that_is_not_even_is_refused(factor):
    with pytest.raises(ValueError, match=f"^`factor` must be even and >= 2. Received: factor={factor}$"):
        BilinearUpSampling(factor)
