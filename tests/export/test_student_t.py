"""The loss against SciPy's multivariate t, and what it is for."""

import numpy as np
import pytest
import torch
from scipy import stats

from rfserve.export.training.student_t import negative_log_likelihood


@pytest.mark.parametrize("degrees", [2.5, 5.0, 1e6])
def test_loss_is_the_density_of_students_t(degrees):
    rng = np.random.default_rng(0)
    error, sigma = rng.normal(0, 3, (50, 2)), rng.uniform(0.1, 4, (50, 2))
    found = negative_log_likelihood(torch.from_numpy(error), torch.from_numpy(sigma), degrees)
    density = [
        stats.multivariate_t(shape=np.diag(s**2), df=degrees).logpdf(e) for e, s in zip(error, sigma, strict=True)
    ]
    assert np.allclose(found.numpy(), -np.array(density), rtol=1e-6)


def test_an_error_far_off_pulls_less_than_one_near():
    error = torch.tensor([[2.0, 0.0], [20.0, 0.0]], requires_grad=True)
    negative_log_likelihood(error, torch.ones(2, 2), 5.0).sum().backward()
    near, far = error.grad[:, 0]
    assert far < near / 2
