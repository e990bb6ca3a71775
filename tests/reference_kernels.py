"""Selection kernels as the papers write them: loops, float64, nothing clever. And some small networks."""

import numpy as np
import torch
from torch import nn


def sq_distance(a, b):
    return float(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).sum())


# k-center greedy, Sener and Savarese, algorithm 1


def covering_distances(x, centers, picks):
    """Squared distance of each row to its nearest center or pick; -1 for a pick."""
    nearest = np.full(len(x), np.inf)
    for u in range(len(x)):
        for c in centers:
            nearest[u] = min(nearest[u], sq_distance(x[u], c))
        for p in picks:
            nearest[u] = min(nearest[u], sq_distance(x[u], x[p]))
    nearest[list(picks)] = -1
    return nearest


def k_center_greedy(x, centers, n):
    """One pass a pick. Without centers the first is the farthest from the mean."""
    x, centers = np.asarray(x, np.float64), np.asarray(centers, np.float64)
    picks = []
    if len(centers) == 0:
        picks.append(int(np.argmax(((x - x.mean(0)) ** 2).sum(1))))
    nearest = covering_distances(x, centers, picks)
    while len(picks) < n:
        i = int(np.argmax(nearest))
        picks.append(i)
        nearest = np.minimum(nearest, ((x - x[i]) ** 2).sum(1))
        nearest[i] = -1
    return np.array(picks)


# k-means++ and BADGE


def d2_law(pairs, picks):
    """Probability of each row to be the next pick of k-means++, by squared distances `pairs` (U, U)."""
    mass = np.array([min(pairs[u][p] for p in picks) for u in range(len(pairs))], np.float64)
    mass[list(picks)] = 0
    if mass.sum() == 0:
        mass[:] = 1
        mass[list(picks)] = 0
    return mass / mass.sum()


def d2_sequences(pairs, first, n):
    """Every sequence of n picks that begins with `first`, and its probability."""
    sequences = {(first,): 1.0}
    for _ in range(n - 1):
        longer = {}
        for picks, probability in sequences.items():
            for u, p in enumerate(d2_law(pairs, picks)):
                if p > 0:
                    longer[(*picks, u)] = probability * p
        sequences = longer
    return sequences


def all_sq_distances(rows):
    return np.array([[sq_distance(a, b) for b in rows] for a in rows])


def badge_gradients(probs, h):
    """The gradient of the cross-entropy of the predicted class with respect to the head's weights, row by row."""
    rows = []
    for p, features in zip(np.asarray(probs, np.float64), np.asarray(h, np.float64), strict=True):
        onehot = np.zeros(len(p))
        onehot[p.argmax()] = 1
        rows.append(np.outer(onehot - p, features).ravel())
    return np.array(rows)


# k-means


def nearest_centroid(x, centroids):
    return np.array([np.argmin([sq_distance(row, c) for c in centroids]) for row in x])


def inertia(x, centroids, assignment):
    return sum(sq_distance(row, centroids[c]) for row, c in zip(x, assignment, strict=True))


def nearest_member(x, centroids, assignment):
    members = []
    for c, centroid in enumerate(centroids):
        rows = [u for u in range(len(x)) if assignment[u] == c]
        members.append(min(rows, key=lambda u: sq_distance(x[u], centroid)))
    return members


# DeepFool, Moosavi-Dezfooli et al., algorithm 2; the basic iterative method, Kurakin et al., section 2.2


def gradient(net, x, c):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x[None])[0, c], x)[0]


def deepfool(net, x, overshoot=0.02, max_steps=50, classes=None, n_later=None):
    """r of one image, in float64, over all classes or some, of which only the nearest n_later remain after a step."""
    net, x = net.double(), x.double()
    logits = net(x[None])[0]
    y = int(logits.argmax())
    r = torch.zeros_like(x)
    for _ in range(max_steps):
        f = net((x + (1 + overshoot) * r)[None])[0]
        if int(f.argmax()) != y:
            break
        best, step, distances = np.inf, None, {}
        for c in range(len(f)) if classes is None else classes:
            if c == y:
                continue
            w = gradient(net, x + (1 + overshoot) * r, c) - gradient(net, x + (1 + overshoot) * r, y)
            if w.norm() == 0:
                continue
            distances[c] = distance = float((f[c] - f[y]).abs() / w.norm())
            if distance < best:
                best, step = distance, (f[c] - f[y]).abs() / w.norm() ** 2 * w
        if step is None:
            return torch.full_like(x, np.inf)
        r = r + step
        if n_later is not None:
            classes = sorted(distances, key=distances.get)[:n_later]
    return r.detach()


def bim(net, x, step, bound, n_search):
    """Where the path of one image crosses the boundary, minus the image, in float64; None if it does not."""
    net, x = net.double(), x.double()
    y = int(net(x[None]).argmax())
    previous = current = x
    for _ in range(int(np.ceil(bound / step))):
        z = current.clone().requires_grad_()
        loss = nn.functional.cross_entropy(net(z[None]), torch.tensor([y]))
        (g,) = torch.autograd.grad(loss, z)
        previous, current = current, x + (current + step * g.sign() - x).clamp(-bound, bound)
        if int(net(current[None]).argmax()) != y:
            break
    else:
        return None
    for _ in range(n_search):
        middle = (previous + current) / 2
        if int(net(middle[None]).argmax()) == y:
            previous = middle
        else:
            current = middle
    return (current - x).detach()


# Networks


class Frozen(nn.Module):
    """A body and a head with fixed random weights, as a Learner holds them; it counts calls and images."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = body, head
        self.eval().requires_grad_(False)
        self.n_calls = self.n_images = 0

    def embed(self, x):
        return self.body(x)

    def forward(self, x):
        self.n_calls += 1
        self.n_images += len(x)
        return self.head(self.embed(x))


def randomized(module, seed, scale=1.0):
    """The same module with weights from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            fan_in = weight.shape[1:].numel() if weight.dim() > 1 else 4
            weight.copy_(scale * torch.randn(weight.shape, generator=generator) / fan_in**0.5)
    return module


def linear_net(n_pixels=12, n_classes=5, seed=0):
    return Frozen(nn.Flatten(), randomized(nn.Linear(n_pixels, n_classes), seed))


def curved_net(n_pixels=48, n_classes=6, seed=0):
    body = nn.Sequential(nn.Flatten(), nn.Linear(n_pixels, 32), nn.Tanh(), nn.Linear(32, 16), nn.SiLU())
    return Frozen(randomized(body, seed, 2.0), randomized(nn.Linear(16, n_classes), seed + 1, 2.0))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
