"""Episodes longer than the actions kept continue exactly, from a saved state of the simulator."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest

from maxentflow.envs import Resumable, make_single
from maxentflow.envs.snapshots import savable
from maxentflow.envs.spaces import standardise
from maxentflow.envs.tasks import create

ENDLESS = {"terminate_when_unhealthy": False}
MUJOCO = {
    "Ant": ENDLESS,
    "HalfCheetah": {},
    "Hopper": ENDLESS,
    "Humanoid": ENDLESS,
    "HumanoidStandup": {},
    "InvertedDoublePendulum": {},
    "InvertedPendulum": {},
    "Pusher": {},
    "Reacher": {},
    "Swimmer": {},
    "Walker2d": ENDLESS,
}
TASKS = [(f"{name}-{v}", options) for name, options in MUJOCO.items() for v in ("v4", "v5")]
TASKS += [("maxentflow/MultiGoal-v0", {}), ("maxentflow/TwoPaths-v0", {"blocked": "bridge"})]
TASKS = [task for task in TASKS if task[0] != "Pusher-v4"]  # refuses MuJoCo 3


def short(task, options, keep=7):
    """Keeps few actions, so that a short episode has many saved states."""
    return Resumable(standardise(create(task, options)), max_actions=keep)


def play(env, actions):
    outcomes = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        info = {name: np.asarray(entry).tolist() for name, entry in info.items()}
        outcomes.append((observation.tolist(), float(reward), terminated, truncated, info))
        if terminated or truncated:
            outcomes.append(env.reset()[0].tolist())
    return outcomes


def actions_for(env, count, seed=0):
    generator = np.random.default_rng(seed)
    shape = (count, *env.action_space.shape)
    return 0.3 * generator.uniform(-1.0, 1.0, shape).astype(np.float32)


@pytest.mark.parametrize(("task", "options"), TASKS, ids=[task for task, _ in TASKS])
@pytest.mark.quick_for("-v5")
def test_an_episode_continues_exactly(task, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs deprecated model files where it runs
    env = short(task, {**options, "max_episode_steps": 95})
    env.reset(seed=3)
    env.reset()
    taken = 0
    while taken < 40:  # in contact with the ground by then
        outcome = env.step(actions_for(env, 1, seed=taken)[0])
        taken += 1
        if outcome[2]:  # tasks that cannot be told to go on
            break
    last = outcome[0]
    state = json.loads(json.dumps(env.state()))
    assert (state["anchor"] is not None) is (taken > 7)
    assert len(state["actions"]) <= 7
    future = actions_for(env, 80, seed=1)
    expected = play(env, future)
    assert any(outcome[3] for outcome in expected if isinstance(outcome, tuple)) or taken < 40
    other = short(task, {**options, "max_episode_steps": 95})
    np.testing.assert_array_equal(other.restore(state), last)
    assert json.loads(json.dumps(other.state())) == state
    assert play(other, future) == expected


def test_mujoco_needs_no_more_than_its_integration_state():
    """Without the warm start of the contact solver the future differs: the test can tell."""
    env, other = short("Ant-v5", ENDLESS), short("Ant-v5", ENDLESS)
    env.reset(seed=3)
    play(env, actions_for(env, 40))
    state = env.state()
    future = actions_for(env, 30, seed=1)
    expected = play(env, future)
    loaded = other.unwrapped
    other.restore(state)
    loaded.data.qacc_warmstart[:] = 0.0
    assert play(other, future) != expected


def test_a_state_holds_the_random_generator():
    class Walk(gym.Env):
        """Moves at random."""

        observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.position = 0.0
            return np.float32([0.0]), {}

        def step(self, action):
            self.position += self.np_random.normal()
            return np.float32([self.position]), 0.0, False, False, {}

        def state_dict(self):
            return {"position": self.position}

        def load_state_dict(self, state):
            self.position = state["position"]

    env, other = Resumable(Walk(), max_actions=3), Resumable(Walk(), max_actions=3)
    env.reset(seed=0)
    for _ in range(11):
        last = env.step(0)[0]
    state = env.state()
    assert state["anchor"]["steps"] == 9
    np.testing.assert_array_equal(other.restore(state), last)
    assert play(other, [0] * 9) == play(env, [0] * 9)


def test_an_endless_episode_has_a_bounded_state():
    env = make_single("HalfCheetah-v4", max_episode_steps=-1)
    env.reset(seed=0)
    for action in actions_for(env, 2_005):
        env.step(action)
        assert len(env._actions) <= 1_000
    state = env.state()
    assert state["anchor"]["steps"] == 2_000
    assert len(state["actions"]) == 5


@pytest.mark.parametrize("task", ["Hopper-v4", "Humanoid-v5", "maxentflow/MultiGoal-v0"])
def test_standard_wrappers_have_no_state_of_their_own(task):
    assert savable(standardise(create(task, {}))) is not None


def test_what_may_keep_more_is_not_saved():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hopper = gym.make("Hopper-v5")
        own = type("Own", (type(hopper.unwrapped),), {"__module__": "own"})()
    assert savable(hopper) is not None
    assert savable(gym.wrappers.NormalizeReward(hopper)) is None
    assert savable(own) is None


def test_a_state_of_another_environment_is_refused():
    env = short("maxentflow/MultiGoal-v0", {}, keep=1)
    env.reset(seed=0)
    for _ in range(2):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="The state is one of another environment"):
        make_single("Pendulum-v1").restore(env.state())
