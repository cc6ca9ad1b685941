"""Any gymnasium task in the form that agents expect, against the task stepped by hand."""

import copy
import subprocess
import sys
import warnings
from functools import partial
from typing import ClassVar

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Sequence, Tuple
from gymnasium.vector import AutoresetMode
from torchrl.envs.utils import check_env_specs

from maxentflow import flows
from maxentflow.envs import (
    MultiGoalEnv,
    check_vector,
    is_resumable,
    like,
    make,
    make_single,
    make_torchrl,
    restore,
    states,
    task_class,
    task_id,
)

PROBE = "probe/Probe-v0"
MUJOCO = {  # sizes of the observation in v4 and v5, and of the action
    "Hopper": (11, 11, 3),
    "HalfCheetah": (17, 17, 6),
    "Walker2d": (17, 17, 6),
    "Ant": (27, 105, 8),
    "Humanoid": (376, 348, 17),
}
UNIT = Box(-1.0, 1.0, (1,), np.float32)


class Probe(gym.Env):
    """Observes a sample of its space, drawn at each reset, and remembers the actions it gets."""

    def __init__(self, observation_space=UNIT, action_space=UNIT, render_mode=None):
        self.observation_space, self.action_space = observation_space, action_space
        self.render_mode = render_mode
        self.received = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.seen = self.observation_space.sample()
        return copy.deepcopy(self.seen), {}

    def step(self, action):
        self.received.append(np.array(action))
        return copy.deepcopy(self.seen), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def probe():
    before = {*gym.registry}
    gym.register(PROBE, entry_point=Probe)
    yield
    for name in {*gym.registry} - before:
        del gym.registry[name]


def plain(task):
    """The task as gymnasium makes it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date.*")
        return gym.make(task)


def actions_for(env, count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(-1.0, 1.0, (count, *env.action_space.shape)).astype(np.float32)


def float32(observation):
    return np.asarray(observation, dtype=np.float32)


def test_actions_are_rescaled_to_the_tasks_bounds():
    space = Box(np.float32([-2.0, 0.0]), np.float32([4.0, 10.0]))
    env = make(PROBE, action_space=space)
    assert env.single_action_space == Box(-1.0, 1.0, (2,), np.float32)
    env.reset(seed=0)
    for action in ([-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [0.5, -0.5]):
        env.step(np.float32([action]))
    expected = [[-2.0, 0.0], [4.0, 10.0], [1.0, 5.0], [2.5, 2.5]]
    # The map is evaluated in float32.
    np.testing.assert_allclose(env.envs[0].unwrapped.received, expected, rtol=2e-7, atol=0)


def test_pendulum_gets_twice_the_action():
    env, reference = make("Pendulum-v1"), plain("Pendulum-v1")
    np.testing.assert_array_equal(env.reset(seed=7)[0], [reference.reset(seed=7)[0]])
    for action in actions_for(env, 50):
        observation, reward, *_ = env.step(action)
        expected, expected_reward, *_ = reference.step(2 * action[0])
        np.testing.assert_array_equal(observation, [expected])
        np.testing.assert_array_equal(reward, [expected_reward])
        np.testing.assert_array_equal(env.envs[0].unwrapped.last_u, 2 * action[0, 0])


@pytest.mark.parametrize("version", ["v4", "v5"])
@pytest.mark.parametrize("name", MUJOCO)
def test_mujoco(name, version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs deprecated model files where it runs
    task = f"{name}-{version}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(task, 2)
        observation, _ = env.reset(seed=1)
    sizes = MUJOCO[name]
    assert observation.shape == (2, sizes[version == "v5"])
    assert env.single_action_space == Box(-1.0, 1.0, (sizes[2],), np.float32)
    reference = plain(task)
    np.testing.assert_array_equal(observation[0], float32(reference.reset(seed=1)[0]))
    highest = reference.action_space.high
    for action in np.sign(actions_for(env, 3)):  # the ends of the range, which rescale exactly
        observation, reward, *_ = env.step(action)
        expected, expected_reward, *_ = reference.step(highest * action[0])
        assert observation.dtype == np.float32
        np.testing.assert_array_equal(observation[0], float32(expected))
        assert reward[0] == expected_reward


def test_hopper_falls_and_starts_again_in_the_same_step():
    env, reference = make("Hopper-v4"), plain("Hopper-v4")
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    np.testing.assert_array_equal(env.reset(seed=5)[0], [float32(reference.reset(seed=5)[0])])
    ended = 0
    for action in actions_for(env, 200):
        observation, reward, terminated, truncated, infos = env.step(action)
        expected, expected_reward, over, out_of_time, _ = reference.step(action[0])
        assert (reward[0], terminated[0], truncated[0]) == (expected_reward, over, out_of_time)
        if over:
            ended += 1
            np.testing.assert_array_equal(infos["final_obs"][0], float32(expected))
            assert infos["final_obs"][0].dtype == np.float32
            expected, _ = reference.reset()
        else:
            assert "final_obs" not in infos
        np.testing.assert_array_equal(observation, [float32(expected)])
    assert ended > 3


def test_a_time_limit_is_a_truncation_with_the_last_observation():
    env = make("Pendulum-v1", 2)
    references = [plain("Pendulum-v1").unwrapped for _ in range(2)]  # these never end
    env.reset(seed=11)
    for index, reference in enumerate(references):
        reference.reset(seed=11 + index)
    for step, action in enumerate(actions_for(env, 200), start=1):
        observation, _, terminated, truncated, infos = env.step(action)
        expected = [r.step(2 * row)[0] for r, row in zip(references, action, strict=True)]
        assert not terminated.any()
        assert truncated.tolist() == [step == 200] * 2
        assert ("final_obs" in infos) is (step == 200)
    np.testing.assert_array_equal(np.stack(list(infos["final_obs"])), expected)
    np.testing.assert_array_equal(observation, [r.reset()[0] for r in references])


def test_options_reach_the_task():
    env = make("Pendulum-v1", max_episode_steps=3, g=0.0)
    env.reset(seed=0)
    assert env.envs[0].unwrapped.g == 0.0
    zero = np.zeros((1, 1), np.float32)
    assert [bool(env.step(zero)[3][0]) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("task", ["Hopper-v4", "Pendulum-v1", "maxentflow/MultiGoal-v0"])
def test_a_seed_fixes_the_trajectory(task):
    first, second = make(task, 2, seed=3), make(task, 2, seed=3)
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    for action in actions_for(first, 120):
        for one, other in zip(first.step(action)[:4], second.step(action)[:4], strict=True):
            np.testing.assert_array_equal(one, other)
    assert (make(task, 2, seed=4).reset()[0] != make(task, 2, seed=3).reset()[0]).any()


def test_copy_i_has_seed_plus_i():
    together, _ = make("Hopper-v4", 3, seed=3).reset()
    alone = [make("Hopper-v4", 1, seed=3 + index).reset()[0][0] for index in range(3)]
    np.testing.assert_array_equal(together, alone)
    assert len({row.tobytes() for row in together}) == 3


def test_without_a_seed_it_is_left_to_chance():
    first, second = (make("Pendulum-v1").reset()[0] for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("task", "near"),
    [
        ("Hoper-v4", "Hopper-v4"),
        ("pendulum-v1", "Pendulum-v1"),
        ("maxentflow/MultiGaol-v0", "maxentflow/MultiGoal-v0"),
        ("maxentflw/MultiGoal-v0", "maxentflow"),
        ("probe/Prob-v0", "Probe"),
    ],
)
def test_an_unknown_task_is_refused_with_near_matches(task, near):
    with pytest.raises(ValueError, match=f"Unknown task '{task}'.*Did you mean.*{near}"):
        make(task)


def test_an_id_with_its_module():
    """Gymnasium imports what stands before the colon, so that the task is registered."""
    assert make_single("gymnasium.envs:Pendulum-v1").spec.id == "Pendulum-v1"


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_copies_below_one_is_refused(count):
    with pytest.raises(ValueError, match=f"at least 1, got {count}"):
        make("Pendulum-v1", count)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-np.inf, 1.0), (0.0, np.inf)])
def test_actions_without_finite_bounds_are_refused(low, high):
    with pytest.raises(ValueError, match=f"{PROBE} has actions without finite bounds"):
        make(PROBE, action_space=Box(low, high, (2,), np.float32))


def test_actions_without_entries_are_refused():
    with pytest.raises(ValueError, match=f"{PROBE} has actions without entries: Box"):
        make(PROBE, action_space=Box(-1.0, 1.0, (0,), np.float32))


def test_observations_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=rf"{PROBE} observes Sequence\(.*\); numbers are needed"):
        make(PROBE, observation_space=Sequence(Discrete(2)))


def test_discrete_actions_pass():
    env = make("CartPole-v1", 2, seed=0)
    assert env.single_action_space == Discrete(2)
    env.reset()
    assert env.step(np.array([0, 1]))[0].shape == (2, 4)


def pixels():
    return Box(0, 255, (3, 4), np.uint8)


@pytest.mark.parametrize(
    ("space", "flat"),
    [
        (Box(-5.0, 5.0, (3,), np.float64), lambda seen: seen),
        (Discrete(4, start=1), lambda seen: np.eye(4)[seen - 1]),
        (MultiDiscrete([2, 3]), lambda seen: [*np.eye(2)[seen[0]], *np.eye(3)[seen[1]]]),
        (Box(-5.0, 5.0, (), np.float32), lambda seen: [seen]),
        (
            Dict(a=Box(-5.0, 5.0, (2,), np.float64), b=pixels()),
            lambda seen: [*seen["a"], *seen["b"].ravel()],
        ),
        (
            Tuple((Box(-5.0, 5.0, (2,), np.float32), Box(0.0, 1.0, (1,), np.float32))),
            lambda seen: [*seen[0], *seen[1]],
        ),
    ],
    ids=["float64", "discrete", "multi-discrete", "scalar", "dict", "tuple"],
)
def test_observations_become_one_float32_vector(space, flat):
    env = make(PROBE, 2, observation_space=space)
    observation, _ = env.reset(seed=0)
    expected = np.array([float32(flat(single.unwrapped.seen)) for single in env.envs])
    assert observation.dtype == np.float32
    np.testing.assert_array_equal(observation, expected)
    np.testing.assert_array_equal(env.step(np.zeros((2, 1), np.float32))[0], expected)
    assert env.single_observation_space.dtype == np.float32
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (pixels(), np.uint8),
        (Box(-5.0, 5.0, (2, 3), np.float64), np.float32),
        (Box(-5, 5, (2, 3), np.int64), np.int64),
        (Box(-5, 5, (2,), np.int64), np.float32),  # networks take vectors of floats
    ],
    ids=["image", "matrix", "table", "integers"],
)
def test_boxes_keep_their_shape_and_images_their_type(space, dtype):
    env = make(PROBE, 2, observation_space=space)
    observation, _ = env.reset(seed=0)
    assert observation.dtype == env.single_observation_space.dtype == dtype
    assert observation.shape == (2, *space.shape)
    for row, single in zip(observation, env.envs, strict=True):
        np.testing.assert_array_equal(row, single.unwrapped.seen.astype(dtype))


def test_actions_that_mean_something_as_they_are_are_left_alone():
    class Shares(Probe):
        metadata: ClassVar = {"rescale_action": False}

    space = Box(0.0, 5.0, (2,), np.float32)
    env = make(lambda: Shares(action_space=space))
    assert env.single_action_space == space
    env.reset()
    env.step(np.array([[1.0, 4.0]], np.float32))
    np.testing.assert_array_equal(env.envs[0].unwrapped.received[0], [1.0, 4.0])


# Environments that are not a gymnasium id


def make_probe(**options):
    return Probe(action_space=Box(-2.0, 4.0, (1,), np.float32), **options)


def test_a_function_that_makes_an_environment():
    env = make(make_probe, 2, seed=5, render_mode="rgb_array")
    assert env.num_envs == 2
    assert task_id(env) is None
    first, _ = env.reset()
    assert not np.array_equal(first[0], first[1])
    more = like(env, 2)
    np.testing.assert_array_equal(more.reset(seed=5)[0], first)
    np.testing.assert_array_equal(restore(like(env, 2), states(env)), first)
    assert [single.render_mode for single in more.envs] == ["rgb_array"] * 2


def test_a_function_that_makes_something_else_is_refused():
    with pytest.raises(ValueError, match="made 3, which is no gymnasium environment"):
        make(lambda: 3)


def test_an_environment_itself():
    own = make_probe()
    env = make(own)
    env.reset()
    env.step(np.array([[0.0]], np.float32))
    np.testing.assert_allclose(own.received[0], [1.0])  # the middle of its own bounds
    for wrong in ({"num_envs": 2}, {"workers": True}, {"render_mode": "rgb_array"}):
        with pytest.raises(ValueError, match=r"A single environment, .*, cannot be copied"):
            make(own, **wrong)
    with pytest.raises(ValueError, match=r"<Probe .*> cannot be copied.*eval_env"):
        like(env)
    (state,) = states(env)
    np.testing.assert_array_equal(restore(env, [state]), [float32(own.seen)])


def test_a_spec():
    spec = gym.spec("Pendulum-v1")
    env = make(spec, g=5.0)
    assert env.envs[0].unwrapped.g == 5.0
    assert task_id(env) == "Pendulum-v1"
    again = make(make("Hopper-v4", 2, seed=0, max_episode_steps=8).spec, 2)
    first, _ = again.reset()
    assert not np.array_equal(first[0], first[1])
    assert again.spec.max_episode_steps == 8
    np.testing.assert_array_equal(restore(like(again, 2), states(again)), first)


def test_what_is_no_environment_is_refused():
    with pytest.raises(ValueError, match="a function that makes an environment is needed, got 3"):
        make(3)


def test_more_of_an_environment_has_its_keyword_arguments():
    env = make("Pendulum-v1", 2, g=5.0, max_episode_steps=7)
    more = like(env, 3, render_mode="rgb_array")
    assert more.num_envs == 3
    assert [single.unwrapped.g for single in more.envs] == [5.0] * 3
    assert [single.render_mode for single in more.envs] == ["rgb_array"] * 3
    assert more.spec.max_episode_steps == 7
    assert like(more).envs[0].render_mode == "rgb_array"
    hopper = make("Hopper-v4", exclude_current_positions_from_observation=False)
    assert like(hopper, 3).observation_space.shape == (3, 12)


def test_more_of_gymnasiums_own_vector_environment():
    vector = {"autoreset_mode": AutoresetMode.SAME_STEP}
    own = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync", vector_kwargs=vector, g=5.0)
    check_vector(own)
    more = like(own, 3)
    assert [single.unwrapped.g for single in more.envs] == [5.0] * 3
    assert more.single_action_space == own.single_action_space  # not rescaled, as it is not
    assert more.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert not is_resumable(own)
    for refused in (lambda: states(own), lambda: restore(own, [{}, {}])):
        with pytest.raises(ValueError, match=r"make it with maxentflow\.envs\.make"):
            refused()


def test_gymnasiums_wrappers_and_spec_are_kept():
    spec = copy.deepcopy(gym.spec("Pendulum-v1"))
    spec.max_episode_steps = 9
    slower = partial(
        gym.wrappers.RescaleAction, min_action=np.float32(-4), max_action=np.float32(4)
    )
    own = gym.make_vec(spec, 2, vectorization_mode="sync", wrappers=[slower], g=5.0)
    more = like(own, 3, g=4.0)
    assert more.num_envs == 3
    assert [single.unwrapped.g for single in more.envs] == [4.0] * 3
    assert more.single_action_space.high == 4.0
    assert more.spec.max_episode_steps == 9
    assert [single.unwrapped.g for single in like(own).envs] == [5.0]


def test_more_of_a_task_with_a_vector_environment_of_its_own():
    more = like(gym.make_vec("CartPole-v1", 2, sutton_barto_reward=True), 3)
    check_vector(more)
    more.reset(seed=0)
    assert more.step(np.zeros(3, np.int64))[1].tolist() == [0.0] * 3


def test_more_of_a_wrapped_vector_environment_is_refused():
    """A wrapper may change what is observed, and may have a state."""
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(make("Pendulum-v1"))
    assert not is_resumable(wrapped)
    with pytest.raises(ValueError, match="More of this environment cannot be made"):
        like(wrapped)


def test_more_of_an_unknown_vector_environment_is_refused():
    with pytest.raises(ValueError, match=r"give an environment for evaluations \(eval_env\)"):
        like(gym.vector.SyncVectorEnv([make_probe]))


def test_vector_environments_that_cannot_be_stepped_are_refused():
    with pytest.raises(ValueError, match="autoreset mode is NEXT_STEP, SAME_STEP is needed"):
        check_vector(gym.make_vec("Pendulum-v1", 2))
    vector = {"autoreset_mode": AutoresetMode.SAME_STEP}
    with pytest.raises(ValueError, match="observes numbers in double precision"):
        check_vector(gym.make_vec("Hopper-v5", 2, vector_kwargs=vector))


def test_the_class_of_a_task():
    assert task_class("maxentflow/MultiGoal-v0") is MultiGoalEnv
    assert task_class(PROBE) is Probe
    assert task_class("Hopper-v4").__name__ == "HopperEnv"
    assert task_class("nowhere/Nothing-v0") is None
    gym.register("probe/Function-v0", entry_point=make_probe)
    gym.register("probe/Missing-v0", entry_point="nowhere:Nothing")
    assert task_class("probe/Function-v0") is None
    assert task_class("probe/Missing-v0") is None


def test_importing_tasks_loads_no_simulator():
    slow = {"torch", "torchrl", "mujoco", "matplotlib"}
    lines = [
        f"import sys, maxentflow.envs as envs; loaded = lambda: {slow} & set(sys.modules)",
        "assert not loaded(), loaded()",
        "env = envs.make('maxentflow/MultiGoal-v0', render_mode='rgb_array'); env.reset()",
        "envs.make('Pendulum-v1')",
        "assert not loaded(), loaded()",
        "env.render()",
        "assert loaded() == {'matplotlib'}, loaded()",
        "env = envs.make('Hopper-v4'); env.reset(); envs.states(env)",
        "assert loaded() == {'matplotlib', 'mujoco'}, loaded()",
    ]
    subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(lines)], check=True)


def test_warnings_of_mujoco_are_pythons(tmp_path, monkeypatch, capfd):
    """Its own go into a file in the present folder."""
    monkeypatch.chdir(tmp_path)
    env = make("HalfCheetah-v4", 2)  # whose model has an attribute of old
    env.reset(seed=0)
    task = env.envs[0].unwrapped
    task.data.qvel[0] = np.nan
    with pytest.warns(RuntimeWarning, match=r"MuJoCo: Nan, Inf or huge value in QVEL"):
        mujoco.mj_step(task.model, task.data)
    assert not list(tmp_path.iterdir())
    assert "settotalmass" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("task", ["Hopper-v4", "Pendulum-v1", "maxentflow/MultiGoal-v0"])
def test_torchrl_specs(task):
    check_env_specs(make_torchrl(task, seed=0))


@pytest.mark.parametrize("task", ["Hopper-v4", "Pendulum-v1", "maxentflow/MultiGoal-v0"])
def test_torchrl_takes_the_same_trajectory(task):
    """Across the ends of episodes too: the same resets follow."""
    options = {"seed": 3, "max_episode_steps": 20}
    env, torchrl_env = make(task, **options), make_torchrl(task, **options)
    expected, data = env.reset()[0][0], torchrl_env.reset()
    for action in actions_for(env, 50):
        np.testing.assert_array_equal(data["observation"].numpy(), expected)
        data["action"] = torch.from_numpy(action[0])
        stepped, data = torchrl_env.step_and_maybe_reset(data)
        observation, reward, terminated, truncated, infos = env.step(action)
        expected, after = observation[0], stepped["next"]
        over = terminated[0] or truncated[0]
        last = infos["final_obs"][0] if over else expected
        np.testing.assert_array_equal(after["observation"].numpy(), last)
        assert after["reward"].item() == np.float32(reward[0])
        assert after["terminated"].item() == terminated[0]
        assert after["truncated"].item() == truncated[0]
        assert after["done"].item() == over


def test_torchrl_rollout_with_a_flow():
    torch.manual_seed(0)
    env = make_torchrl("Hopper-v4", seed=0)
    flow = flows.build("additive", 3, 11, temperature=0.25)
    data = env.rollout(12, flows.FlowPolicy(flow))
    assert data.batch_size == (12,)
    assert data["action"].abs().max() < 1
    np.testing.assert_array_equal(data["next", "observation"][:-1], data["observation"][1:])
    log_prob = flow.log_prob(data["action"], data["observation"])
    # The squash is inverted in float32, on one row at a time against all at once.
    torch.testing.assert_close(data["action_log_prob"], log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_actions_in_double_precision(shape):
    env = make(PROBE, action_space=Box(-2.0, 4.0, shape, np.float64))
    assert env.single_action_space == Box(-1.0, 1.0, shape, np.float32)
    env.reset()
    env.step(np.full((1, *shape), 0.5, np.float32))
    (received,) = env.envs[0].unwrapped.received
    assert received.dtype == np.float64
    np.testing.assert_allclose(received, np.full(shape, 2.5), rtol=2e-7)


@pytest.mark.filterwarnings("ignore:.*maximum and minimum values are equal")
def test_actions_with_equal_bounds_are_refused():
    with pytest.raises(ValueError, match=f"{PROBE} has an action whose bounds are equal"):
        make(PROBE, action_space=Box(np.float32([0.0, 1.0]), np.float32([1.0, 1.0])))


def test_torchrl_takes_functions_and_discrete_actions():
    env = make_torchrl(partial(gym.make, "CartPole-v1"), max_episode_steps=4)
    data = env.rollout(10)
    assert data["action"].shape == (4,)
    assert data["action"].dtype == torch.int64
    assert make_torchrl(gym.spec("Pendulum-v1"), g=4.0).rollout(2).batch_size == (2,)


def test_actions_of_integers_are_refused():
    with pytest.raises(ValueError, match=f"{PROBE} has actions that are no real numbers"):
        make_single(PROBE, action_space=Box(-2, 2, (1,), np.int64))
