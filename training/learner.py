"""A trained network, ready to predict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from data import Inputs
from nets import FeatureNet, Net
from utils import UserError, has_fast_bf16


def has_finite_weights(net: Net) -> bool:
    """Whether no weight or running statistic is NaN or infinite."""
    return all(bool(t.isfinite().all()) for t in net.state_dict().values())


class Learner:
    """A trained network, ready to predict. Its weights are frozen and it stays in evaluation mode.

    Args:
        net: trained.
        device: where the network is; results are tensors there.
        batch_size: rows a pass; halved by itself when they do not fit into the device's memory.
        bf16: compute embeddings in bfloat16 where the device does so fast: quicker, but three digits rank images
            differently from float32.
        screen: let strategies rule images out by their scores in bfloat16, where the device computes it fast.
    """

    def __init__(
        self,
        net: Net,
        device: torch.device,
        batch_size: int | None = None,
        bf16: bool = False,
        screen: bool = False,
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self.net.zero_grad(set_to_none=True)
        self.device = device
        on_cpu = 256 if isinstance(net, FeatureNet) else 64  # what its caches hold
        self.batch_size = batch_size or (1024 if device.type == "cuda" else on_cpu)
        self.bf16 = bf16
        self.screen = screen

    @property
    def has_dropout(self) -> bool:
        """Whether dropout passes can differ from each other."""
        return self.net.dropout.p > 0

    def configured(self, bf16: bool, screen: bool) -> Learner:
        """The same network with other settings."""
        return Learner(self.net, self.device, self.batch_size, bf16, screen)

    def rough(self) -> Learner | None:
        """The same network in bfloat16, to rule images out with; None where that is not requested or not faster."""
        if not self.screen or self.bf16 or not has_fast_bf16(self.device):
            return None
        return self.configured(bf16=True, screen=False)

    @torch.no_grad()
    def map(self, f: Callable[[Tensor], Tensor], inputs: Inputs | Tensor) -> Tensor:
        """Apply `f` to all rows, batch by batch.

        Args:
            f: pure; takes normalised float32 rows (B, ...) on the device, returns (B, ...).
            inputs: rows. Shape (n, 3, H, W), uint8, or (n, D); n >= 1.

        Returns:
            Shape (n, ...).

        Raises:
            UserError: not even one image fits into the device's memory.
        """
        inputs = inputs if isinstance(inputs, Inputs) else Inputs(inputs)
        results: Tensor | None = None
        start = 0
        with tqdm(total=len(inputs), unit="image", leave=False, delay=2, disable=None) as bar:
            while start < len(inputs):
                try:
                    for batch in inputs.batches(start, self.batch_size, self.device):
                        result = f(self.net.normalize(batch))
                        if results is None:  # one tensor from the first: many small ones would fragment the memory
                            results = result.new_empty(len(inputs), *result.shape[1:])
                        results[start : start + len(batch)] = result
                        start += len(batch)
                        bar.update(len(batch))
                except torch.OutOfMemoryError as e:
                    if self.batch_size == 1:
                        raise UserError(f"the memory of {self.device} does not hold one image and the network") from e
                    self.batch_size //= 2
                    torch.cuda.empty_cache()
        if results is None:
            raise ValueError("no inputs")
        return results

    def logits(self, x: Tensor) -> Tensor:
        """Logits of normalised rows, for batches that shrink from call to call; gradients flow to `x`. Shape (B, C).

        On CUDA, batches are padded to a power of two, because cuDNN sets itself up again for every new size.
        """
        if self.device.type != "cuda":
            return self.net(x)
        missing = (1 << (len(x) - 1).bit_length()) - len(x)
        return self.net(F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)))[: len(x)]

    def _embed(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and has_fast_bf16(self.device)):
            return self.net.embed(x).float()

    def _map_finite(self, f: Callable[[Tensor], tuple[Tensor, Tensor]], inputs: Inputs | Tensor) -> Tensor:
        """`map`, and an error where outputs are not finite: a strategy that counts votes would not notice NaN.

        Args:
            f: returns its result (B, ...) and a sum of all that must be finite.
            inputs: as for `map`.
        """
        total = torch.zeros((), device=self.device)  # read once at the end: no batch waits for the device

        def summed(x: Tensor) -> Tensor:
            result, part = f(x)
            total.add_(part)
            return result

        results = self.map(summed, inputs)
        if not total.isfinite():
            raise UserError("the network's outputs are NaN or infinite: the training diverged; try a smaller --lr")
        return results

    def probs(self, inputs: Inputs | Tensor) -> Tensor:
        """Class probabilities without dropout, float32. Shape (n, C).

        Raises:
            UserError: one is NaN.
        """

        def predict(x: Tensor) -> tuple[Tensor, Tensor]:
            probs = self.net.head(self._embed(x)).softmax(1)
            return probs, probs.sum()

        return self._map_finite(predict, inputs)

    def embeddings(self, inputs: Inputs | Tensor) -> Tensor:
        """What the head reads, float32. Shape (n, D).

        Raises:
            UserError: one is NaN or infinite.
        """

        def embed(x: Tensor) -> tuple[Tensor, Tensor]:
            h = self._embed(x)
            return h, h.sum()

        return self._map_finite(embed, inputs)

    def dropout_probs(
        self,
        inputs: Inputs | Tensor,
        n_drop: int,
        rng: np.random.Generator,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Class probabilities of K networks, each with its own dropout mask on the embedding, the same for all images.

        The masks are folded into the head, so that one pass of the body and one matrix product serve all K.

        Args:
            inputs: rows. Shape (n, 3, H, W), uint8, or (n, D).
            n_drop: K.
            rng: draws the masks.
            reduce: applied to the probabilities of each batch, (K, B, C) -> (B, ...), so that (K, n, C) is never held.

        Returns:
            Shape (K, n, C); with `reduce`, (n, ...).

        Raises:
            UserError: the network has no dropout, or its embeddings or weights are NaN or infinite.
        """
        head = self.dropout_head(n_drop, rng)

        def passes(x: Tensor) -> tuple[Tensor, Tensor]:
            h = self._embed(x)
            probs = head(h)
            part = h.sum() + probs[-1].sum()  # one row shows all weights
            return probs if reduce is None else reduce(probs.transpose(0, 1)), part

        result = self._map_finite(passes, inputs)
        return result.transpose(0, 1) if reduce is None else result

    def dropout_head(self, n_drop: int, rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
        """The head of K networks, each with its own dropout mask: embeddings (B, D) to probabilities (B, K, C).

        Args:
            n_drop: K.
            rng: draws the masks.

        Raises:
            UserError: the network has no dropout.
        """
        head, p = self.net.head, self.net.dropout.p
        if not self.has_dropout:
            raise UserError("dropout passes need a network with dropout; this one was trained with --dropout 0")
        n_classes, n_features = head.weight.shape
        mask = torch.from_numpy(rng.random((n_drop, n_features)) >= p).to(self.device)
        weights = (head.weight * mask[:, None] / (1 - p)).flatten(0, 1)  # (K C, D)

        def probs(h: Tensor) -> Tensor:
            return ((h @ weights.T).unflatten(1, (n_drop, n_classes)) + head.bias).softmax(-1)

        return probs
