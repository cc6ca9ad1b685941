"""Write a policy as a file that runs without this package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from maxentflow.agents.agent import Agent
from maxentflow.agents.training.files import check_place, write_atomically
from maxentflow.agents.training.formats import NEEDED, SUFFIXES, WRITERS, Format
from maxentflow.agents.training.portable import Noise, PortablePolicy, own_space

__all__ = ["export"]

_CHECKED = 1_000  # observations on which a file must agree with its policy
_TOLERANCE = 1e-4  # of the largest action
_TIES = 1e-3  # share of indices that may differ


def export(
    agent: Agent,
    env: VectorEnv,
    path: str | os.PathLike[str],
    *,
    format: Format = "torch-export",
    stochastic: bool = False,
) -> list[Noise]:
    """Write a policy as a function from observations to the task's own actions.

    The file takes ``observation``, shape ``(rows, *observation_shape)`` for any number of rows, as
    :func:`maxentflow.envs.make` gives it, and gives ``action``, shape ``(rows, *action_shape)``,
    in the units of the task as gymnasium makes it: within its bounds, not in [-1, 1]. Whatever
    standardises observations in the policy is part of it. A sampling policy also takes its random
    numbers. Beside the file, FILE.json names inputs and output. What was written is run on
    1,000 observations and compared with the policy.

    Args:
        agent: whose policy is written.
        env: a vector environment such as it was trained in.
        path: of the file; it ends in .pt2, .pt or .onnx.
        format: what :func:`torch.export.load`, :func:`torch.jit.load` or ONNX runtimes read.
        stochastic: sample actions instead of taking the mode.

    Returns:
        The random numbers that the file takes, in order.

    Raises:
        ValueError: a package is missing, the file cannot be written, the policy cannot be
            exported, or what was written differs from it; there is no file then.

    Example:
        >>> import tempfile
        >>> from maxentflow import agents, envs
        >>> env = envs.make("Pendulum-v1")
        >>> agent = agents.make("sac", env, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(agent, env, f"{folder}/policy.pt2", stochastic=True)
        ...     policy = torch.export.load(f"{folder}/policy.pt2").module()
        [Noise(name='noise', distribution='normal', shape=(1,))]
        >>> action = policy(torch.zeros(5, 3), torch.randn(5, 1))
        >>> action.shape, bool((action.abs() <= 2.0).all())
        (torch.Size([5, 1]), True)
    """
    path = Path(path).expanduser()
    _check(path, format)
    policy = PortablePolicy(agent, env, stochastic)
    observations = _observations(env, _CHECKED)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        noise = policy.noise(observations[:2])
        given = [observations, *(each.draw(_CHECKED) for each in noise)]
        expected = policy(*given)
        names = ["observation", *(each.name for each in noise)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters that are about to change
            content, run = WRITERS[format](policy, [entry[:2] for entry in given], names)
            found = run(*given)
        _compare(expected, found, path)
    description = _description(agent, env, format, stochastic, noise)
    try:
        write_atomically(path, content)
        write_atomically(path.with_name(f"{path.name}.json"), description.encode())
    except OSError as error:
        raise ValueError(f"Cannot write to {path}: {error.strerror or error}.") from error
    return noise


def _observations(env: VectorEnv, rows: int) -> Tensor:
    """Observations of the form of a task's."""
    space = env.single_observation_space
    assert space.shape is not None
    generator = torch.Generator().manual_seed(0)
    if np.issubdtype(space.dtype, np.integer):
        found = torch.randint(256, (rows, *space.shape), generator=generator)
        return found.to(torch.from_numpy(np.empty(0, space.dtype)).dtype)
    return torch.randn(rows, *space.shape, generator=generator)


def _check(path: Path, format: str) -> None:
    if format not in SUFFIXES:
        raise ValueError(f"Unknown format {format!r}; known: {', '.join(get_args(Format))}.")
    check_place(path, f"{format} file", SUFFIXES[format])
    missing = [name for name in NEEDED.get(format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f'Format {format} needs {", ".join(missing)}: pip install "maxentflow[onnx]".'
        )


def _compare(expected: Tensor, found: Tensor, path: Path) -> None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ValueError(
            f"{path.name} was not written: it gives {tuple(found.shape)} of {found.dtype}, the "
            f"policy {tuple(expected.shape)} of {expected.dtype}."
        )
    if expected.is_floating_point():
        largest = expected.abs().max().clamp(min=1.0)
        distance, most = float((expected - found).abs().max() / largest), _TOLERANCE
    else:
        distance, most = float((expected != found).float().mean()), _TIES
    if not distance <= most:
        raise ValueError(
            f"{path.name} was not written: its actions differ from the policy's by {distance:.1e}."
        )


def _description(
    agent: Agent, env: VectorEnv, format: str, stochastic: bool, noise: Sequence[Noise]
) -> str:
    own, seen = own_space(env), env.single_observation_space
    bounds = (
        {"low": own.low.tolist(), "high": own.high.tolist()}
        if isinstance(own, gym.spaces.Box)
        else {"n": int(own.n), "start": int(own.start)}
        if isinstance(own, gym.spaces.Discrete)
        else {}
    )
    versions = {name: importlib.metadata.version(name) for name in ("maxentflow", "torch")}
    return json.dumps(
        {
            "agent": agent.name,
            "task": None if env.spec is None else env.spec.id,
            "format": format,
            "stochastic": stochastic,
            "observation": {"shape": list(seen.shape or ()), "dtype": str(seen.dtype)},
            "action": {"shape": list(own.shape or ()), "dtype": str(own.dtype), **bounds},
            "noise": [asdict(each) for each in noise],
            "versions": versions,
        },
        indent=2,
    )
