"""An optimiser whose weight decay fades."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["FadingAdamW"]


class FadingAdamW(torch.optim.AdamW):
    r"""AdamW with a weight decay of :math:`\lambda \min(1, \sqrt{n_0 / n})` in update n.

    The best penalty of least squares falls with the number of observations, as a power of it
    between -1/3 and -1 that depends on the function and its features (Caponnetto and De Vito 2007,
    doi:10.1007/s10208-006-0196-8); -1/2 is what did best. Where each update comes with a new
    transition, the number of observations is that of updates.

    Args:
        params: as of :class:`torch.optim.AdamW`.
        fade: :math:`n_0`, the updates after which the weight decay falls; ``None`` for one that
            stays. An option of each parameter group.
        options: further ones of :class:`torch.optim.AdamW`.

    Raises:
        ValueError: ``fade`` is below 1.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = FadingAdamW([weight], fade=1, lr=0.5, weight_decay=1.0)
        >>> for _ in range(2):
        ...     weight.grad = torch.zeros(1)
        ...     optimizer.step()
        ...     print(f"{weight.item():.4f}")
        0.5000
        0.3232
    """

    def __init__(self, params: Any, *, fade: int | None, **options: Any) -> None:
        if fade is not None and not fade >= 1:
            raise ValueError(f"fade must be at least 1, got {fade}.")
        super().__init__(params, **options)
        self.defaults["fade"] = fade
        for group in self.param_groups:
            group.setdefault("fade", fade)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; see :meth:`torch.optim.Optimizer.step`."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            if decay and group.get("fade") is not None:
                group["weight_decay"] = decay * min(1.0, group["fade"] / self._count(group)) ** 0.5
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay

    def _count(self, group: dict[str, Any]) -> int:
        """The number of a group's next update; the first is 1."""
        taken = (self.state[p]["step"] for p in group["params"] if "step" in self.state.get(p, {}))
        return 1 + int(next(taken, 0))
