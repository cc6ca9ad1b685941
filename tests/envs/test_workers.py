"""Environments in processes of their own do what they do in this one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from maxentflow.envs import like, make, restore, states, task_id
from maxentflow.envs.workers import WorkerError


def test_results_are_the_same():
    env, reference = make("Hopper-v4", 2, seed=3, workers=True), make("Hopper-v4", 2, seed=3)
    np.testing.assert_array_equal(env.reset()[0], reference.reset()[0])
    ended = 0
    for action in np.random.default_rng(0).uniform(-1, 1, (150, 2, 3)).astype(np.float32):
        outcome, expected = env.step(action), reference.step(action)
        for one, other in zip(outcome[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        assert ("final_obs" in outcome[4]) is ("final_obs" in expected[4])
        if "final_obs" in expected[4]:
            ended += 1
            for one, other in zip(outcome[4]["final_obs"], expected[4]["final_obs"], strict=True):
                np.testing.assert_array_equal(one, other)
    assert ended > 1
    assert states(env) == states(reference)
    assert task_id(env) == task_id(reference) == "Hopper-v4"
    env.close()


def test_more_of_them_and_back_to_their_states():
    env = make("Pendulum-v1", 2, g=5.0, seed=0, workers=True)
    env.reset()
    zero = np.zeros((2, 1), np.float32)
    for _ in range(3):
        observation, *_ = env.step(zero)
    more = like(env, 2)
    assert [single.unwrapped.g for single in more.envs] == [5.0] * 2
    np.testing.assert_array_equal(restore(more, states(env)), observation)
    following, *_ = env.step(zero)
    np.testing.assert_array_equal(restore(env, states(more)), observation)
    np.testing.assert_array_equal(env.step(zero)[0], following)
    env.close()


@pytest.mark.slow
def test_functions_and_tasks_that_only_this_process_knows():
    class Here(gym.Env):  # pickled by value, as a class of a notebook
        observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def __init__(self, reward=1.0):
            self.reward = reward

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), self.reward, False, False, {}

    gym.register("here/Here-v0", entry_point=Here)
    try:
        for task in (Here, lambda reward: Here(reward), "here/Here-v0", gym.spec("here/Here-v0")):
            env = make(task, 2, workers=True, reward=4.0)
            env.reset()
            assert env.step(np.array([0, 1]))[1].tolist() == [4.0, 4.0]
            env.close()
    finally:
        del gym.registry["here/Here-v0"]


def test_refusals_are_raised_here():
    with pytest.raises(ValueError, match="Unknown task 'Pendulm-v1'"):
        make("Pendulm-v1", 2, workers=True)


def test_they_are_no_forks_of_this_process():
    """Which may run threads that a fork would lack."""
    env = make("Pendulum-v1", 2, workers=True)
    env.reset(seed=0)
    for process in env.processes:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(re.search(r"PPid:\s+(\d+)", status)[1]) != os.getpid()
        assert os.getsid(process.pid) != os.getsid(0)
    env.close()
    assert not any(process.is_alive() for process in env.processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_they_live_on_at_a_signal(number):
    """A terminal, or a scheduler, sends it to all processes; the run wants to finish its step."""
    before = signal.getsignal(number)
    env = make("Pendulum-v1", 2, seed=0, workers=True)
    assert signal.getsignal(number) is before
    env.reset()
    for process in env.processes:
        os.kill(process.pid, number)
    observation, *_ = env.step(np.zeros((2, 1), np.float32))
    assert observation.shape == (2, 3)
    env.close()


@pytest.mark.parametrize("moment", ["between steps", "in a step", "in a reset"])
def test_one_that_is_killed_is_told_of_and_ends_the_others(moment):
    class Dies(gym.Wrapper):  # pickled by value: workers cannot import from these tests
        def step(self, action):
            os.kill(os.getpid(), signal.SIGKILL)

    dying = lambda: Dies(gym.make("Pendulum-v1"))  # noqa: E731
    env = make(dying if moment == "in a step" else "Pendulum-v1", 2, workers=True)
    env.reset(seed=0)
    if moment != "in a step":
        env.processes[1].kill()
    zero = np.zeros((2, 1), np.float32)
    use = env.reset if moment == "in a reset" else lambda: env.step(zero)
    with pytest.raises(ConnectionError, match=r"A worker process .* was killed by SIGKILL"):
        use()
    assert not any(process.is_alive() for process in env.processes)
    env.close()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "said", ["100% of it", ConnectionError("a socket of its own"), lambda: 0, SystemExit(0)]
)
def test_an_exception_of_an_environment_is_told_with_its_place(said):
    """Also one that cannot be sent between processes, as its argument is a function."""

    class Breaks(gym.Wrapper):
        def step(self, action):
            raise said if isinstance(said, BaseException) else LookupError(said)

    env = make(lambda: Breaks(gym.make("Pendulum-v1")), 2, workers=True)
    env.reset(seed=0)
    kind = type(said).__name__ if isinstance(said, BaseException) else "LookupError"
    words = re.escape(str(said)) if not callable(said) else "<function .*>"
    with pytest.raises(WorkerError) as caught:
        env.step(np.zeros((2, 1), np.float32))
    place = r"(.*test_workers\.py|<dynamic-code>), line \d+"  # as cloudpickle calls it from 3.1.3
    assert re.fullmatch(rf"{kind}: {words} \({place}\)", str(caught.value))
    assert "in step\n" in caught.value.__notes__[0]
    assert not any(process.is_alive() for process in env.processes)
    env.close()


UNCLOSED = """
from maxentflow import envs

if __name__ == "__main__":
    env = envs.make("Pendulum-v1", 2, seed=0, workers=True)
    env.reset()
    env.step_async(env.action_space.sample())
    print("stepping")
"""


def test_a_script_that_leaves_them_open_ends(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNCLOSED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "stepping\n")
    assert "Traceback" not in done.stderr


SCRIPT = """
import signal, sys
import numpy as np
from maxentflow import envs

if __name__ == "__main__":
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    env = envs.make("Pendulum-v1", 2, seed=0, workers=True)
    env.reset()
    print(*(process.pid for process in env.processes), flush=True)
    while not stopped:
        signal.pause()
    env.step(np.zeros((2, 1), np.float32))
    assert len(envs.states(env)) == 2
    print("stepped", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_signals_to_the_group_pass_by_and_workers_end_with_the_main_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as main:
        try:
            workers = [int(pid) for pid in main.stdout.readline().split()]
            assert len(workers) == 2
            os.killpg(main.pid, signal.SIGTERM)
            assert main.stdout.readline() == "stepped\n"
            assert all(Path(f"/proc/{pid}").exists() for pid in workers)
        finally:
            main.kill()
        said = main.stderr.read()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the main process"
        time.sleep(0.05)
    assert "Traceback" not in said
