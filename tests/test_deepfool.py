"""Distances to the decision boundary, by DeepFool and the basic iterative method, against one image at a time."""

import numpy as np
import pytest
import reference_kernels as reference
import small
import torch
from reference_kernels import Frozen, curved_net, linear_net, normal
from scipy.stats import spearmanr
from torch import nn

from strategies.adversarial_bim import AdversarialBIM
from strategies.adversarial_margin import AdversarialMargin
from strategies.kernels.bim import bim_distances
from strategies.kernels.deepfool import deepfool_distances

KERNELS = pytest.mark.parametrize("kernel", [deepfool_distances, bim_distances])


def images(n, side=4, seed=5):
    return normal(n, 3, side, side, seed=seed)


# DeepFool


@pytest.mark.parametrize("overshoot", [0.02, 0.5])
def test_deepfool_equals_one_image_at_a_time(overshoot):
    net, x = curved_net(), images(40)
    ours = deepfool_distances(net, x, None, overshoot)
    expected = [reference.deepfool(net, image, overshoot).norm().item() for image in x]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_deepfool_takes_more_than_one_step_on_a_curved_network():
    """Or the test above would not see what happens in the second."""
    net, x = curved_net(), images(40)
    one = deepfool_distances(net, x, None, max_steps=1)
    assert (one != deepfool_distances(net, x, None)).float().mean() > 0.3


def test_deepfool_of_a_linear_network_is_the_distance_to_the_nearest_hyperplane():
    net, x = linear_net(), normal(50, 3, 2, 2, seed=1)
    f, w = net(x), net.head.weight
    y = f.argmax(1)
    expected = [
        min(abs(f[i, c] - f[i, y[i]]) / (w[c] - w[y[i]]).norm() for c in range(5) if c != y[i]) for i in range(50)
    ]
    torch.testing.assert_close(deepfool_distances(net, x, None), torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        deepfool_distances(net, x, None, overshoot=0.7), torch.stack(expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("n_top", [1, 2, 4])
def test_deepfool_with_top_classes_tries_the_most_probable_others_and_later_the_nearest(n_top):
    net, x = curved_net(), images(40)
    tops = net(x).argsort(1, descending=True)[:, : 1 + n_top].tolist()
    expected = [
        reference.deepfool(net, image, classes=top, n_later=3).norm().item() for image, top in zip(x, tops, strict=True)
    ]
    np.testing.assert_allclose(deepfool_distances(net.float(), x, n_top), expected, rtol=1e-4, atol=1e-6)


def test_deepfool_with_as_many_classes_as_there_are_is_exact():
    net, x = curved_net(), images(20)
    assert torch.equal(deepfool_distances(net, x, 5), deepfool_distances(net, x, None))
    assert torch.equal(deepfool_distances(net, x, 50), deepfool_distances(net, x, None))


def test_top_classes_rank_as_all_classes_do():
    net, x = curved_net(n_classes=10), images(300)
    assert spearmanr(deepfool_distances(net, x), deepfool_distances(net, x, None)).statistic >= 0.999


def test_overshoot_keeps_images_from_stalling_on_the_boundary():
    net, x = linear_net(), normal(200, 3, 2, 2, seed=1)
    net.n_calls = 0
    deepfool_distances(net, x, None, overshoot=0.02)
    assert net.n_calls == 2
    deepfool_distances(net, x, None, overshoot=0)
    assert net.n_calls > 4


def test_deepfool_counts_two_forward_passes_a_step_and_one_backward_pass_a_class(monkeypatch):
    net, x = curved_net(), images(64)
    backward = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backward.append(len(a[1])) or original(*a, **k))
    net.n_calls = net.n_images = 0
    deepfool_distances(net, x, 4)
    steps = net.n_calls // 2
    assert net.n_calls == 2 * steps
    assert len(backward) == 4 + 3 * (steps - 1)
    assert backward[:4] == [64] * 4
    assert backward[-1] < 64 / 2, "those that have changed their class take no further part"
    assert net.n_images == 2 * (64 + sum(backward[4::3]))
    net.n_calls = 0
    backward.clear()
    deepfool_distances(net, x, None)
    assert len(backward) == 5 * (net.n_calls // 2), "exact: all classes in all steps"


def test_an_image_that_never_changes_keeps_its_length_so_far():
    """f_1 - f_0 = -1 - x²: the linear boundary is where there is none."""
    net = Frozen(nn.Flatten(), nn.Identity())
    net.forward = lambda x: torch.stack([torch.zeros(len(x)), -1 - x.flatten(1).square().sum(1)], 1) + 0 * x.sum()
    lengths = deepfool_distances(net, torch.full((2, 1, 1, 1), 3.0), None, max_steps=7)
    expected = reference.deepfool(_Scalar(), torch.full((1,), 3.0), max_steps=7).norm().item()
    np.testing.assert_allclose(lengths, [expected] * 2, rtol=1e-3)


class _Scalar(nn.Module):
    def forward(self, x):
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), -1 - x[:, 0] ** 2], 1)


@pytest.mark.parametrize("tie", [False, True])
def test_a_flat_network_is_infinitely_far_from_its_boundary(tie):
    net = linear_net()
    net.head.weight.zero_()
    if tie:
        net.head.bias.zero_()
    assert deepfool_distances(net, normal(4, 3, 2, 2), None).tolist() == [torch.inf] * 4
    assert bim_distances(net, normal(4, 3, 2, 2)).tolist() == [torch.inf] * 4


def test_a_flat_class_does_not_hide_the_others():
    net = linear_net(n_classes=3)
    x = normal(30, 3, 2, 2)
    net.head.weight[1] = net.head.weight[0]
    lengths = deepfool_distances(net, x, None)
    f, w = net(x), net.head.weight
    y, o = f.argmax(1), torch.full((30,), 2)
    o[y == 2] = f[:, :2].argmax(1)[y == 2]
    rows = torch.arange(30)
    torch.testing.assert_close(
        lengths, (f[rows, y] - f[rows, o]).abs() / (w[y] - w[o]).norm(dim=1), rtol=1e-4, atol=1e-6
    )


def test_an_image_on_the_boundary_has_distance_0():
    net = linear_net()
    net.head.bias.zero_()
    assert deepfool_distances(net, torch.zeros(2, 3, 2, 2), None).tolist() == [0, 0]


@pytest.mark.parametrize("n_classes", [2, 3])
@KERNELS
def test_few_classes_and_few_images_are_enough(kernel, n_classes):
    lengths = kernel(linear_net(n_classes=n_classes), normal(1, 3, 2, 2))
    assert lengths.shape == (1,)
    assert lengths > 0


# The basic iterative method


def test_bim_equals_one_image_at_a_time():
    net, x = curved_net(), images(30)
    expected = [reference.bim(net, image, 0.05, 1.0, 30) for image in x]
    lengths = [np.inf if r is None else r.norm().item() for r in expected]
    assert 0 < np.isinf(lengths).sum() < 30 or np.isfinite(lengths).all()
    np.testing.assert_allclose(bim_distances(net.float(), x, 0.05, 1.0, 8), lengths, rtol=1e-5)
    a_step = 0.05 * x[0].numel() ** 0.5
    np.testing.assert_allclose(bim_distances(net, x, 0.05, 1.0), lengths, atol=a_step / 256)


@pytest.mark.parametrize(
    ("lead", "root"), [(lambda t: t**9 - 0.05, 0.05 ** (1 / 9)), (lambda t: 0.05 - (1 - t) ** 9, 1 - 0.05 ** (1 / 9))]
)
def test_the_search_ends_on_a_boundary_that_is_no_straight_line(lead, root):
    """One pixel t takes one step across the boundary, from elsewhere in each image; in the first there is none."""
    factor = torch.tensor([0.0, 0.01, 1.0, 100.0])
    net = Frozen(nn.Flatten(), nn.Identity())
    net.forward = lambda x: torch.stack([torch.zeros(len(x)), factor[-len(x) :] * lead(x.flatten())], 1)
    start = torch.tensor([0.03, 0.005, 0.01, 0.02])
    lengths = bim_distances(net, start[:, None, None, None], 0.99, 0.99, 14)
    np.testing.assert_allclose((start + lengths)[1:], [root] * 3, atol=1e-4)
    assert lengths[0] == torch.inf


def test_bim_of_a_linear_network_with_two_classes_ends_on_the_boundary():
    net, x = linear_net(n_classes=2), normal(50, 3, 2, 2, seed=1)
    w, f = net.head.weight[0] - net.head.weight[1], net(x)
    n_pixels = x[0].numel()
    expected = (f[:, 0] - f[:, 1]).abs() / w.abs().sum() * n_pixels**0.5
    torch.testing.assert_close(bim_distances(net, x, 0.05, 10.0, 20), expected, rtol=1e-4, atol=1e-5)


def test_a_search_much_longer_than_needed_stays_where_it_is():
    net, x = curved_net(), images(50)
    torch.testing.assert_close(bim_distances(net, x, n_search=300), bim_distances(net, x, n_search=20))


def test_the_search_separates_images_that_change_at_the_same_step():
    net, x = curved_net(), images(100)
    steps = bim_distances(net, x, 0.5, 2.0) / (0.5 * x[0].numel() ** 0.5)
    assert len(steps.ceil().unique()) < 10
    assert len(steps.unique()) > 95


def test_bim_stops_at_its_bound():
    net, x = linear_net(n_classes=2), normal(50, 3, 2, 2, seed=1)
    exact = bim_distances(net, x, 0.05, 10.0, 20)
    assert exact.isfinite().all()
    bounded = bim_distances(net, x, 0.05, 0.2, 20)
    reach = 0.2 * 12**0.5
    assert torch.equal(bounded.isinf(), exact > reach)
    assert 0 < bounded.isinf().sum() < 50
    net.n_calls = 0
    bim_distances(net, x, 0.05, 0.2, 3)
    assert net.n_calls == 1 + 4 + 3


def test_bim_keeps_a_bound_that_is_no_multiple_of_its_step():
    net, x = linear_net(n_classes=2), normal(50, 3, 2, 2, seed=1)
    exact = bim_distances(net, x, 0.05, 10.0, 20)
    reach = 0.25 * 12**0.5
    assert ((exact > reach) & (exact < 0.3 * 12**0.5)).any()
    assert torch.equal(bim_distances(net, x, 0.1, 0.25, 20).isinf(), exact > reach)


def test_bim_moves_an_image_of_which_the_network_is_certain():
    """The cross-entropy of p_y = 1 in float32 has gradient 0."""
    net, x = linear_net(n_classes=2), normal(20, 3, 2, 2)
    net.head.weight.mul_(1e4)
    net.head.bias.mul_(1e4)
    assert bim_distances(net, x, 0.05, 10.0).isfinite().all()


# Both


@KERNELS
def test_images_do_not_see_each_other(kernel):
    net, x = curved_net(), images(24)
    alone = torch.cat([kernel(net, image[None]) for image in x])
    torch.testing.assert_close(kernel(net, x), alone, rtol=1e-4, atol=1e-6)


@KERNELS
def test_network_and_images_are_left_as_they_were(kernel):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
    net, x = Frozen(body, nn.Linear(16, 3)), images(10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    original = x.clone()
    with torch.no_grad():
        kernel(net, x)
        assert not torch.is_grad_enabled()
    assert torch.equal(x, original)
    assert not x.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in net.parameters())
    assert not net.training


@KERNELS
def test_nan_logits_give_nan_and_not_a_number(kernel):
    net, x = linear_net(), normal(4, 3, 2, 2)
    x[1] = torch.nan
    lengths = kernel(net, x)
    assert lengths.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("strategy", "kernel"), [(AdversarialMargin, deepfool_distances), (AdversarialBIM, bim_distances)]
)
def test_strategy_labels_the_nearest_images_first(strategy, kernel):
    pool = small.pool(n=50, n_labeled=12)
    learner = small.learner(pool)
    idxs = strategy(pool, learner, np.random.default_rng(0)).query(15)
    lengths = learner.map(lambda x: kernel(learner.net, x), pool.inputs[pool.unlabeled])
    assert idxs.tolist() == pool.unlabeled[lengths.argsort()[:15]].tolist()


def test_hyperparameters_reach_the_kernels():
    pool = small.pool(n=30, n_labeled=12)
    learner = small.learner(pool)
    rng, idxs = np.random.default_rng(0), pool.unlabeled
    few = AdversarialMargin(pool, learner, rng, n_top=1, overshoot=0.5, max_steps=2).score(idxs)
    x = learner.net.normalize(pool.inputs[idxs].batch(0, len(idxs), learner.device))
    assert torch.equal(-few, deepfool_distances(learner.net, x, 1, 0.5, 2))
    coarse = AdversarialBIM(pool, learner, rng, step=0.1, bound=0.3, n_search=1).score(idxs)
    assert torch.equal(-coarse, bim_distances(learner.net, x, 0.1, 0.3, 1))
