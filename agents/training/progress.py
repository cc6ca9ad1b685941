"""How far a run is: a bar on a terminal, a line at each log step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """Tells on standard error how far a run is.

    Args:
        name: of the run, among several.
        step: where it begins.
        total: where it ends.
        silent: tell nothing.

    Example:
        >>> progress = Progress("seed 0", 0, 100, silent=True)
        >>> progress.tell({"step": 50, "train_return": 1.0})
        >>> progress.close()
    """

    def __init__(self, name: str, step: int, total: int, *, silent: bool = False) -> None:
        self._name, self._step, self._total = name, step, total
        self._began = time.perf_counter()
        is_terminal = sys.stderr.isatty()
        self._prints = not silent and not is_terminal
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=step,
            disable=silent or not is_terminal,
            unit="step",
            dynamic_ncols=True,
        )

    def tell(self, row: Mapping[str, float]) -> None:
        """Show a row of the metrics."""
        step = min(int(row["step"]), self._total)  # several environments may pass the end
        shown = _shown(row)
        if self._prints:
            words = [f"{name} {value}" for name, value in shown.items()]
            speed = (step - self._step) / (time.perf_counter() - self._began)
            if speed > 0:
                left = _duration((self._total - step) / speed)
                words += [f"{speed:.0f} steps/s", f"{left} left"]
            print(
                f"{self._name}, step {step:,} of {self._total:,}: {', '.join(words)}",
                file=sys.stderr,
                flush=True,
            )
        self._bar.set_postfix(shown)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def _shown(row: Mapping[str, float]) -> dict[str, str]:
    entries = {
        "return": row.get("eval_return", row.get("train_return")),
        "loss": next((value for key, value in row.items() if key.startswith("loss")), None),
    }
    return {name: f"{value:.4g}" for name, value in entries.items() if value is not None}


def _duration(seconds: float) -> str:
    """Of a run: ``"2 h 5 min"``, ``"12 min"``, ``"40 s"``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
