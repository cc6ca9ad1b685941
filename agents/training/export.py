"""Write a policy as a file that runs without this package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict import TensorDict
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchrl.envs.utils import ExplorationType, set_exploration_type

from maxentflow.agents.agent import Agent
from maxentflow.agents.training.files import write_atomically
from maxentflow.envs.tasks import create

__all__ = ["SUFFIXES", "Format", "Noise", "export"]

Format = Literal["torch-export", "torchscript", "onnx"]
"""What a policy can be written as."""

SUFFIXES: dict[str, str] = {"torch-export": ".pt2", "torchscript": ".pt", "onnx": ".onnx"}
"""Of the file of each format."""

_CHECKED = 1_000  # observations on which a file must agree with its policy
_TOLERANCE = 1e-4  # of the largest action
_TIES = 1e-3  # share of indices that may differ
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


@dataclass(frozen=True)
class Noise:
    """Random numbers that an exported policy takes, in place of drawing them.

    Attributes:
        name: of the input.
        distribution: standard normal, or uniform in [0, 1).
        shape: for one observation.
    """

    name: str
    distribution: Literal["normal", "uniform"]
    shape: tuple[int, ...]

    def draw(self, rows: int) -> Tensor:
        """Numbers for several observations, of torch's generator."""
        function = torch.randn if self.distribution == "normal" else torch.rand
        return function(rows, *self.shape)


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
    policy = _Policy(agent, env, stochastic)
    observations = _observations(env, _CHECKED)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        noise = policy.noise(observations[:2])
        given = [observations, *(each.draw(_CHECKED) for each in noise)]
        expected = policy(*given)
        names = ["observation", *(each.name for each in noise)]
        unfinished = path.with_name(f"unfinished-{path.name}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of exporters that are about to change
                run = _WRITERS[format](policy, [entry[:2] for entry in given], names, unfinished)
                found = run(*given)
            _compare(expected, found, path)
            description = _description(agent, env, format, stochastic, noise)
            unfinished.replace(path)
            write_atomically(path.with_name(f"{path.name}.json"), description.encode())
        except OSError as error:
            raise ValueError(f"Cannot write to {path}: {error.strerror or error}.") from error
        finally:
            unfinished.unlink(missing_ok=True)
    return noise


class _Policy(nn.Module):
    """A policy as a function of tensors, with actions in the units of its task."""

    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent, env: VectorEnv, stochastic: bool) -> None:
        super().__init__()
        self.policy = agent.policy
        self._kind = ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC
        own: Any = _own_space(env)
        unit = env.single_action_space
        self._start = int(own.start) if isinstance(own, gym.spaces.Discrete) else 0
        self._is_rescaled = isinstance(own, gym.spaces.Box) and own != unit
        bounds: Any = (own.low, own.high) if self._is_rescaled else (-1.0, 1.0)
        self.register_buffer("low", torch.as_tensor(bounds[0], dtype=torch.float32))
        self.register_buffer("high", torch.as_tensor(bounds[1], dtype=torch.float32))

    def noise(self, observation: Tensor) -> list[Noise]:
        """The random numbers that it draws for some observations."""
        with _Noted(len(observation)) as noted:
            self._act(observation)
        drawn = noted.drawn
        names = ["noise"] if len(drawn) == 1 else [f"noise_{i}" for i in range(len(drawn))]
        return [Noise(name, *each) for name, each in zip(names, drawn, strict=True)]

    def forward(self, observation: Tensor, *noise: Tensor) -> Tensor:
        with _Given(noise):
            action = self._act(observation).detach()
        if self._is_rescaled:
            share = (action + 1.0) / 2.0
            return torch.clamp(self.low + (self.high - self.low) * share, self.low, self.high)
        return action + self._start if self._start else action

    def _act(self, observation: Tensor) -> Tensor:
        with set_exploration_type(self._kind):
            given = TensorDict(observation=observation, batch_size=observation.shape[:1])
            return self.policy(given)["action"]


_Draw = tuple[Literal["normal", "uniform"], tuple[int, ...]]


class _Noted(TorchFunctionMode):
    """Notes the random numbers that are drawn, a row for each observation."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows
        self.drawn: list[_Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _NORMAL:
            self.drawn.append(("normal", tuple(result.shape[1:])))
        elif func in _UNIFORM:
            self.drawn.append(("uniform", tuple(result.shape[1:])))
        elif func in _INDICES:
            self.drawn.append(("uniform", (1,)))
        else:
            return result
        if len(result) != self._rows:
            raise ValueError(
                "The policy cannot be exported: it draws random numbers that are not one row for "
                "each observation."
            )
        return result


class _Given(TorchFunctionMode):
    """Gives random numbers that are there in place of drawing them."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__()
        self._noise = iter(noise)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.normal:
            mean, deviation = args[:2]
            return mean + deviation * next(self._noise)
        if func in _NORMAL or func in _UNIFORM:
            return next(self._noise)
        if func in _INDICES:  # the inverse of the distribution function
            weights = args[0]
            below = weights.cumsum(-1) <= next(self._noise) * weights.sum(-1, keepdim=True)
            index = below.sum(-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
            return index if weights.ndim > 1 else index.squeeze(-1)
        return func(*args, **(kwargs or {}))


_NORMAL = {torch.randn, torch.randn_like, torch.normal, Tensor.normal_}
_UNIFORM = {torch.rand, torch.rand_like, Tensor.uniform_}
_INDICES = {torch.multinomial, Tensor.multinomial}


def _own_space(env: VectorEnv) -> gym.Space[Any]:
    """The action space of a task as gymnasium makes it."""
    recipe = getattr(env, "recipe", None)
    if recipe is None:
        return env.single_action_space
    if isinstance(recipe.task, gym.Env):
        return recipe.task.action_space
    own = create(recipe.task, recipe.options)
    own.close()
    return own.action_space


def _observations(env: VectorEnv, rows: int) -> Tensor:
    """Observations of the form of a task's."""
    space = env.single_observation_space
    assert space.shape is not None
    generator = torch.Generator().manual_seed(0)
    if np.issubdtype(space.dtype, np.integer):
        found = torch.randint(256, (rows, *space.shape), generator=generator)
        return found.to(torch.from_numpy(np.empty(0, space.dtype)).dtype)
    return torch.randn(rows, *space.shape, generator=generator)


_Run = Callable[..., Tensor]


def _write_exported(policy: nn.Module, given: Sequence[Tensor], names: Any, path: Path) -> _Run:
    program = _program(policy, given)
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _write_script(policy: nn.Module, given: Sequence[Tensor], names: Any, path: Path) -> _Run:
    # As it is, or else as its exported graph: TorchScript takes no autograd functions, and of a
    # graph no sizes that depend on the number of rows. Most policies have one of the two at most.
    learning = [entry for entry in policy.parameters() if entry.requires_grad]
    for entry in learning:
        entry.requires_grad_(False)
    try:
        refusal: Exception | None = None
        for function in (lambda: policy.forward, lambda: _program(policy, given).module()):
            try:
                traced = torch.jit.trace(function(), tuple(given), check_trace=False)
                torch.jit.save(traced, str(path))
                loaded = torch.jit.load(str(path))
                loaded(*(entry[:1] for entry in given))
            except RuntimeError as error:
                refusal = error
            else:
                return loaded
    finally:
        for entry in learning:
            entry.requires_grad_(True)
    raise ValueError(
        "The policy cannot be exported to TorchScript; torch-export and onnx may do."
    ) from refusal


def _write_onnx(
    policy: nn.Module, given: Sequence[Tensor], names: Sequence[str], path: Path
) -> _Run:
    import onnxruntime

    program = _program(policy, given)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells what else it could do
    try:
        torch.onnx.export(
            program,
            f=str(path),
            input_names=list(names),
            output_names=["action"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # of any kind, from deep within
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(f"The policy cannot be exported to ONNX: {reason}") from error
    session = onnxruntime.InferenceSession(path.read_bytes())

    def run(*inputs: Tensor) -> Tensor:
        fed = {name: entry.numpy() for name, entry in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, fed)[0])

    return run


def _program(policy: nn.Module, given: Sequence[Tensor]) -> torch.export.ExportedProgram:
    rows = torch.export.Dim("rows")
    shapes: list[Any] = [{0: rows}]
    if len(given) > 1:
        shapes.append(tuple({0: rows} for _ in given[1:]))
    try:
        return torch.export.export(policy, tuple(given), dynamic_shapes=tuple(shapes))
    except Exception as error:  # of any kind, from deep within
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"The policy cannot be exported: {reason}.") from error


_WRITERS: dict[str, Callable[[nn.Module, Sequence[Tensor], Sequence[str], Path], _Run]] = {
    "torch-export": _write_exported,
    "torchscript": _write_script,
    "onnx": _write_onnx,
}


def _check(path: Path, format: str) -> None:
    if format not in SUFFIXES:
        raise ValueError(f"Unknown format {format!r}; known: {', '.join(get_args(Format))}.")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"A file of format {format} must end in {SUFFIXES[format]}, got {path}.")
    if not path.parent.is_dir():
        raise ValueError(f"Cannot write to {path}: {path.parent} is no folder.")
    missing = [name for name in _NEEDED.get(format, ()) if importlib.util.find_spec(name) is None]
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
    own, seen = _own_space(env), env.single_observation_space
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
