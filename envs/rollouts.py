"""Episodes of a policy, with what each came to, and their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BatchFunction", "Rollouts", "contour", "picture", "save"]

BatchFunction = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From observations ``(n, ·)`` to actions ``(n, ·)``, or to values ``(n,)``."""


@dataclass(frozen=True)
class Rollouts:
    """Episodes from their start to their end.

    Attributes:
        paths: observations of each, shape ``(steps + 1, ·)``.
        outcomes: an entry of the last step's ``info``, whole numbers of shape ``(episodes,)``; -1
            of episodes that were cut.
    """

    paths: list[NDArray[np.float32]]
    outcomes: NDArray[np.int64]

    @classmethod
    def sample(
        cls,
        make: Callable[[], gym.Env[Any, Any]],
        act: BatchFunction,
        episodes: int,
        *,
        outcome: str,
        seed: int = 0,
        max_steps: int = 1_000,
    ) -> Rollouts:
        """Run episodes side by side.

        Args:
            make: makes the task, such as its class.
            act: actions for observations.
            episodes: how many.
            outcome: name of the entry of ``info``.
            seed: episode ``i`` starts from ``seed + i``.
            max_steps: episodes are cut after so many.

        Example:
            >>> from maxentflow.envs import MultiGoalEnv
            >>> up = lambda x: np.tile([0.0, 1.0], (len(x), 1))
            >>> rollouts = Rollouts.sample(MultiGoalEnv, up, 2, outcome="goal")
            >>> rollouts.outcomes, rollouts.paths[1].shape
            (array([2, 2]), (5, 2))
        """
        copies = [make() for _ in range(episodes)]
        starts = [env.reset(seed=seed + index)[0] for index, env in enumerate(copies)]
        paths, outcomes = [[start] for start in starts], np.full(episodes, -1)
        running = list(range(episodes))
        for _ in range(max_steps):
            if not running:
                break
            # Ended episodes too: the policy's random numbers then do not depend on which ended.
            actions = act(np.stack([path[-1] for path in paths]))
            for index in list(running):
                observation, _, terminated, _, info = copies[index].step(actions[index])
                paths[index].append(observation)
                if terminated:
                    outcomes[index] = info[outcome]
                    running.remove(index)
        return cls([np.array(path) for path in paths], outcomes)


def contour(figure: Figure, axes: Axes, value: BatchFunction | None, x: float, y: float) -> None:
    """Fill a plane with the soft value; with grey where there is none.

    Args:
        figure: of the axes.
        axes: to draw in.
        value: the soft values ``(n,)`` of positions ``(n, 2)``, or ``None``.
        x: the plane ends at -x and x.
        y: and at -y and y.
    """
    axes.set(xlim=(-x, x), ylim=(-y, y), aspect="equal", xlabel="x", ylabel="y")
    if value is None:
        axes.set_facecolor("0.3")
        return
    across, along = np.meshgrid(
        np.linspace(-x, x, 141, dtype=np.float32), np.linspace(-y, y, 141, dtype=np.float32)
    )
    heights = value(np.stack([across, along], -1).reshape(-1, 2)).reshape(across.shape)
    filled = axes.contourf(across, along, heights, levels=24, cmap="viridis")
    figure.colorbar(filled, ax=axes, label="soft value V(s)")


def picture(width: float, height: float, draw: Callable[[Axes], None]) -> NDArray[np.uint8]:
    """A figure without a frame, as ``(100 height, 100 width, 3)`` bytes.

    Args:
        width: in hundreds of pixels.
        height: likewise.
        draw: draws into the axes.
    """
    # Imported here: drawing is rare, and matplotlib is slow to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xticks=[], yticks=[])
    draw(axes)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path) -> None:
    """Write a figure; missing folders are made.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot write the figure {path}: {error}.") from error
