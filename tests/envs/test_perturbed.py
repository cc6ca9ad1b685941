"""Changed worlds against mechanics, and against the task as it is."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from maxentflow import envs
from maxentflow.envs import PERTURBATIONS, Perturbed, Resumable, make
from maxentflow.envs.perturbed import _ARRAYS

pytestmark = pytest.mark.filterwarnings("ignore:.*out of date.*", "ignore:.*precision.*")
TASKS = ["Hopper-v4", "Walker2d-v5", "HalfCheetah-v4", "Ant-v4", "Humanoid-v5"]


def task(name="Hopper-v5", **amounts):
    return Perturbed(gym.make(name), **amounts)


def arrays(env):
    """Everything in a model that a perturbation may change."""
    model = env.unwrapped.model
    names = [name for group in _ARRAYS.values() for name in group]
    return {"gravity": model.opt.gravity.copy(), **{n: getattr(model, n).copy() for n in names}}


def play(env, actions, seed=0):
    observation, _ = env.reset(seed=seed)
    outcomes = [(observation.tolist(), 0.0, False)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        outcomes.append((observation.tolist(), float(reward), terminated))
        if terminated or truncated:
            break
    return outcomes


def actions_for(env, count=30, seed=1):
    space = env.action_space
    return (
        np.random.default_rng(seed)
        .uniform(space.low, space.high, (count, *space.shape))
        .astype(np.float32)
    )


def in_the_air(env):
    """High above the floor and at rest."""
    env.reset(seed=0)
    inner = env.unwrapped
    qpos = inner.init_qpos.copy()
    qpos[2 if inner.model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE else 1] += 50.0
    inner.set_state(qpos, 0 * inner.init_qvel)
    return inner


def momentum(inner):
    """Of the whole robot."""
    mujoco.mj_forward(inner.model, inner.data)  # a step leaves velocities of its beginning
    mujoco.mj_subtreeVel(inner.model, inner.data)
    trunk = inner.model.jnt_bodyid[0]
    return inner.data.subtree_linvel[trunk] * inner.model.body_subtreemass[trunk]


# Each quantity


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_gravity_by_free_fall(name, factor):
    env = task(name, gravity=factor)
    inner = in_the_air(env)
    mass = inner.model.body_subtreemass[inner.model.jnt_bodyid[0]]
    for _ in range(3):
        mujoco.mj_step(inner.model, inner.data)
    expected = -9.81 * factor * mass * 3 * inner.model.opt.timestep
    assert momentum(inner)[2] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_a_push_by_the_momentum_it_gives(name):
    """Force times time, in the air: half of the weight for one step."""
    env = task(name, push=0.5, push_rate=1.0)
    inner = in_the_air(env)
    weight = 9.81 * inner.model.body_subtreemass[inner.model.jnt_bodyid[0]]
    env.step(np.zeros(env.action_space.shape, np.float32))
    sideways = momentum(inner)[:2]
    if name in ("Ant-v4", "Humanoid-v5"):
        assert np.abs(sideways).min() > 0
    else:
        assert sideways[1] == 0.0
    assert np.linalg.norm(sideways) == pytest.approx(0.5 * weight * inner.dt, rel=2e-2)
    assert (inner.data.xfrc_applied == 0).all()


def test_how_often_a_push_comes():
    env = task("HalfCheetah-v5", push=0.1, push_rate=0.2)
    env.reset(seed=0)
    pushes, inner = 0, env.unwrapped
    stepped = inner.do_simulation

    def watched(*arguments):
        nonlocal pushes
        pushes += bool(inner.data.xfrc_applied.any())
        return stepped(*arguments)

    inner.do_simulation = watched
    for _ in range(1_000):
        env.step(np.zeros(6, np.float32))
    assert abs(pushes - 200) <= 4 * np.sqrt(1_000 * 0.2 * 0.8)


@pytest.mark.parametrize("name", TASKS)
def test_masses_and_what_follows_from_them(name):
    """Half of each mass: twice the acceleration, where nothing else has inertia."""
    plain, env = gym.make(name), task(name, mass=0.5)
    before = arrays(plain)
    env.reset(seed=0)
    after = arrays(env)
    for array in ("body_mass", "body_inertia", "body_subtreemass"):
        np.testing.assert_allclose(after[array], 0.5 * before[array], rtol=1e-9)
    own = before["body_invweight0"] > 0
    # Armatures have an inertia of their own, so that weights less than double.
    ratio = after["body_invweight0"][own] / before["body_invweight0"][own]
    assert (ratio > 1.0).all()
    assert (ratio <= 2.0 + 1e-9).all()


def test_motor_and_damping_by_the_forces():
    plain, env = gym.make("Hopper-v5"), task(motor=0.5, damping=3.0)
    velocity, force = np.linspace(0.5, 1.0, 6), np.array([0.3, -0.2, 0.1])
    found = []
    for one in (plain, env):
        inner = in_the_air(one)
        inner.data.qvel[:], inner.data.ctrl[:] = velocity, force
        mujoco.mj_forward(inner.model, inner.data)
        found.append((inner.data.qfrc_actuator.copy(), inner.data.qfrc_damper.copy()))
    np.testing.assert_allclose(found[1][0], 0.5 * found[0][0], rtol=1e-12)
    np.testing.assert_allclose(found[1][1], 3.0 * found[0][1], rtol=1e-12)
    assert np.abs(found[0][0]).max() > 1
    assert np.abs(found[0][1]).max() > 0.1


def test_friction_by_the_contacts():
    coefficients = []
    for env in (gym.make("HalfCheetah-v5"), task("HalfCheetah-v5", friction=0.25)):
        env.reset(seed=0)
        for _ in range(20):
            env.step(np.zeros(6, np.float32))
        data = env.unwrapped.data
        assert data.ncon > 0
        coefficients.append(data.contact.friction[:, 0].max())
    assert coefficients[1] == pytest.approx(0.25 * coefficients[0])


def test_a_slippery_floor_holds_less():
    """The friction of a sliding robot is at most the coefficient times the normal force."""
    env = task("HalfCheetah-v5", friction=0.1)
    env.reset(seed=0)
    inner = env.unwrapped
    for _ in range(40):
        env.step(np.zeros(6, np.float32))
    inner.data.qvel[0] = 3.0
    mujoco.mj_step(inner.model, inner.data)
    force, seen = np.zeros(6), 0
    for index in range(inner.data.ncon):
        mujoco.mj_contactForce(inner.model, inner.data, index, force)
        coefficient = inner.data.contact[index].friction[0]
        assert np.linalg.norm(force[1:3]) <= coefficient * force[0] * (1 + 1e-3) + 1e-9
        seen += force[0] > 1
    assert seen


def test_a_delay_shifts_the_actions():
    plain, env = gym.make("HalfCheetah-v5"), task("HalfCheetah-v5", action_delay=3)
    actions = actions_for(plain)
    shifted = [*np.zeros((3, 6), np.float32), *actions[:-3]]
    assert play(env, actions) == play(plain, shifted)


def test_noise_is_seen_and_does_nothing_else():
    plain, env = gym.make("HalfCheetah-v5"), task("HalfCheetah-v5", observation_noise=0.1)
    actions = actions_for(plain, 300)
    true = np.array([step[0] for step in play(plain, actions)])
    seen = np.array([step[0] for step in play(env, actions)])
    noise = (seen - true) / 0.1
    count = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(count)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * count)
    assert [step[1] for step in play(env, actions)] == [step[1] for step in play(plain, actions)]


# Draws


@pytest.mark.parametrize("name", TASKS)
def test_the_neutral_world_is_the_task_as_it_is(name):
    neutral = {name: kind.neutral for name, kind in PERTURBATIONS.items() if name != "mass"}
    plain, env = gym.make(name), task(name, **neutral)
    actions = actions_for(plain)
    assert play(env, actions) == play(plain, actions)


def test_a_neutral_mass_is_the_task_to_rounding():
    plain, env = gym.make("Hopper-v5"), task(mass=1.0)
    actions = actions_for(plain, 20)
    for (one, *_), (two, *_) in zip(play(env, actions), play(plain, actions), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-8)


def test_quantities_are_drawn_for_every_episode_and_told():
    env = task(friction=(0.5, 1.5), action_delay=(0, 2), gravity=0.9)
    drawn = []
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        drawn.append(info["perturbation"])
        np.testing.assert_array_equal(observation, gym.make("Hopper-v5").reset(seed=seed)[0])
        assert env.step(np.zeros(3, np.float32))[4]["perturbation"] == info["perturbation"]
        assert env.unwrapped.model.opt.gravity[2] == pytest.approx(-9.81 * 0.9)
    frictions = np.array([each["friction"] for each in drawn])
    assert frictions.min() >= 0.5
    assert frictions.max() <= 1.5
    assert abs(frictions.mean() - 1.0) < 4 * (1 / np.sqrt(12)) / np.sqrt(60)
    assert {each["action_delay"] for each in drawn} == {0, 1, 2}
    assert env.reset(seed=7)[1]["perturbation"] == drawn[7]


def test_closing_gives_the_task_its_model_back():
    inner = gym.make("Ant-v5")
    before = arrays(inner)
    env = Perturbed(inner, friction=2.0, mass=(0.5, 2.0), motor=0.5, damping=2.0, gravity=0.5)
    for seed in range(3):
        env.reset(seed=seed)
    assert all((arrays(env)[name] != before[name]).any() for name in ("gravity", "body_mass"))
    env.close()
    after = arrays(inner)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"mass": 2.0, "gravity": 0.5}, {"ground": 0.2, "motor": 2.0}),
        ({"ground": 0.2, "motor": 2.0}, {"mass": 2.0, "gravity": 0.5}),
        ({"friction": 2.0}, {"obstacles": 0.2}),
    ],
)
def test_a_closed_wrapper_changes_nothing(inside, outside):
    inner = gym.make("Hopper-v5")
    before = arrays(inner)
    env = Perturbed(Perturbed(inner, **inside), **outside)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    after = arrays(inner)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert env.reset(seed=0)[1]["perturbation"] == {}
    actions = actions_for(inner)
    assert play(env, actions) == play(gym.make("Hopper-v5"), actions)


def test_bars_stand_from_the_first_picture_on():
    env = task("HalfCheetah-v5", obstacles=0.2)
    inner = env.unwrapped
    env.reset(seed=0)
    seen = inner.data.geom_xpos.copy()
    mujoco.mj_forward(inner.model, inner.data)
    np.testing.assert_allclose(seen, inner.data.geom_xpos, atol=1e-12)


def test_several_compose_and_may_not_meet():
    inner = gym.make("Hopper-v5")
    before = arrays(inner)
    env = Perturbed(Perturbed(inner, mass=(0.5, 2.0)), friction=(0.5, 2.0), push=0.1)
    for seed in range(4):
        _, info = env.reset(seed=seed)
        drawn = info["perturbation"]
        assert set(drawn) == {"mass", "friction", "push"}
        changed = arrays(env)
        np.testing.assert_allclose(changed["body_mass"], drawn["mass"] * before["body_mass"])
        np.testing.assert_allclose(
            changed["geom_friction"][:, 0], drawn["friction"] * before["geom_friction"][:, 0]
        )
    with pytest.raises(ValueError, match="mass is changed already"):
        Perturbed(env, mass=2.0)


def test_in_a_vector_environment_and_resumed():
    def changed():
        return Perturbed(gym.make("Hopper-v5"), friction=(0.5, 1.5), push=0.2, action_delay=2)

    vector = make(changed, 2, seed=0)
    _, info = vector.reset(seed=0)
    assert info["perturbation"]["friction"].shape == (2,)
    env, other = Resumable(changed()), Resumable(changed())
    actions = actions_for(env, 20)
    play(env, actions[:10], seed=3)
    other.restore(env.state())
    for action in actions[10:]:
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]
        if one[2]:
            break


def test_a_maze_too():
    env = Perturbed(gym.make("maxentflow/TwoPathsMaze-v0"), motor=0.5, push=0.5, push_rate=1.0)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert np.abs(env.unwrapped.data.qvel).min() > 0
    with pytest.raises(ValueError, match="need a robot on a floor that is a plane"):
        Perturbed(gym.make("maxentflow/TwoPathsMaze-v0"), ground=0.1)


# Ground


def surface(model, data, x, y):
    """The height at which a ray from above meets what does not move."""
    geom, static = np.zeros(1, np.int32), np.zeros(6, np.uint8)
    static[:] = 1
    mujoco.mj_forward(model, data)
    start, down = np.array([x, y, 10.0]), np.array([0.0, 0.0, -1.0])
    return 10.0 - mujoco.mj_ray(model, data, start, down, static, 1, -1, geom)


@pytest.mark.parametrize("name", ["Hopper-v4", "Walker2d-v5", "Ant-v4"])
def test_the_height_of_the_ground_by_rays(name):
    env = task(name, ground=0.3)
    env.reset(seed=0)
    inner = env.unwrapped
    qpos = inner.init_qpos.copy()
    qpos[2 if name == "Ant-v4" else 1] += 20.0  # out of the way
    inner.set_state(qpos, inner.init_qvel)
    chance, heights = np.random.default_rng(0), []
    for _ in range(50):
        x, y = chance.uniform(-5, 25), chance.uniform(-0.4, 0.4)
        met = surface(inner.model, inner.data, x, y)
        height = env._ground.height(x, y)
        # MuJoCo's triangles differ from a bilinear surface within a cell.
        assert height == pytest.approx(met, abs=0.02 if name == "Ant-v4" else 0.002)
        heights.append(height)
    assert min(heights) >= 0.0
    assert 0.1 < max(heights) <= 0.3
    assert env._ground.height(0.5, 0.0) == 0.0  # flat around the start


@pytest.mark.parametrize("name", ["Hopper-v4", "Walker2d-v5", "Ant-v4", "Humanoid-v5"])
def test_the_fall_check_counts_from_the_ground(name):
    env = task(name, ground=0.8)
    env.reset(seed=0)
    inner = env.unwrapped
    index = 2 if inner.model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE else 1
    places = np.linspace(5, 30, 200)
    x = places[np.argmax([env._ground.height(each, 0.0) for each in places])]
    height = env._ground.height(x, 0.0)
    assert height > 0.5
    qpos = inner.init_qpos.copy()
    qpos[0] = x
    inner.set_state(qpos, 0 * inner.init_qvel)
    low = inner.is_healthy  # as high above zero as it starts, so half a metre in the ground
    qpos[index] += height
    inner.set_state(qpos, 0 * inner.init_qvel)
    assert inner.is_healthy
    assert inner.data.qpos[index] == qpos[index]
    assert not low
    kind = type(inner)
    env.close()
    assert type(inner) is not kind
    assert type(inner).__name__ == kind.__name__


@pytest.mark.parametrize("name", ["Hopper-v4", "Walker2d-v5", "HalfCheetah-v5", "Ant-v4"])
def test_robots_run_into_bars_and_rub_at_them(name):
    """A robot that slides towards the first bar touches it, loses speed, and feels friction."""
    env = task(name, obstacles=0.4)
    ends = []
    for seed in range(2):
        env.reset(seed=seed)
        inner = env.unwrapped
        qpos, qvel = inner.init_qpos.copy(), 0 * inner.init_qvel
        qpos[0], qvel[0] = 2.0, 4.0
        inner.set_state(qpos, qvel)
        bars, dimensions = inner.model.body("bars").id, set()
        for _ in range(300):
            mujoco.mj_step(inner.model, inner.data)
            bodies = inner.model.geom_bodyid[inner.data.contact.geom]
            dimensions |= set(inner.data.contact.dim[(bodies == bars).any(-1)].tolist())
        assert dimensions == {3}
        ends.append(inner.data.qpos[0])
    plain = gym.make(name).unwrapped
    plain.reset(seed=0)
    plain.set_state(qpos, qvel)
    for _ in range(300):
        mujoco.mj_step(plain.model, plain.data)
    assert abs(ends[0] - plain.data.qpos[0]) > 0.02
    np.testing.assert_allclose(*ends)


@pytest.mark.parametrize("name", TASKS)
def test_a_model_with_other_ground_has_the_robot_as_it_was(name):
    plain = gym.make(name).unwrapped.model
    changed = task(name, ground=0.1, obstacles=0.1).unwrapped.model
    own = [body for body in range(changed.nbody) if changed.body(body).name != "bars"]
    assert len(own) == plain.nbody
    for body, place in enumerate(own):
        twin = changed.body(place)
        for array in ("mass", "inertia", "pos", "quat", "ipos"):
            np.testing.assert_array_equal(getattr(twin, array), getattr(plain.body(body), array))
    for array in ("dof_damping", "dof_armature", "actuator_gear", "jnt_range", "jnt_stiffness"):
        np.testing.assert_array_equal(getattr(changed, array), getattr(plain, array))
    np.testing.assert_array_equal(changed.opt.gravity, plain.opt.gravity)


@pytest.mark.parametrize("name", ["Hopper-v4", "HalfCheetah-v5", "Humanoid-v5"])
def test_hills_hold_a_robot_of_another_mass_from_the_first_episode_on(name):
    env = task(name, ground=0.8, mass=(0.9, 1.1))
    for seed in range(2):
        env.reset(seed=seed)
        inner = env.unwrapped
        index = 2 if name == "Humanoid-v5" else 1
        x = max(np.linspace(5, 30, 200), key=lambda x: env._ground.height(x, 0.0))
        qpos = inner.init_qpos.copy()
        qpos[0], qpos[index] = x, inner.init_qpos[index] + env._ground.height(x, 0.0) + 0.05
        inner.set_state(qpos, 0 * inner.init_qvel)
        lowest = np.inf
        for _ in range(200):
            mujoco.mj_step(inner.model, inner.data)
            static = inner.model.geom_bodyid[inner.data.contact.geom] == 0
            touched = inner.data.contact.pos[static.any(-1)]
            for x, y, z in touched:
                lowest = min(lowest, z - env._ground.height(x, y))
        assert -0.1 < lowest < np.inf  # softly in the ground, not through it


def test_the_ground_of_the_last_episode_is_gone_where_the_next_begins():
    def changed():
        return task("Ant-v5", ground=(0.0, 0.8), mass=(0.3, 3.0), obstacles=(0.0, 0.2))

    env, other = Resumable(changed()), Resumable(changed())
    actions = actions_for(env, 25)
    play(env, actions, seed=5)  # an episode before
    env.reset()
    for action in actions[:10]:
        env.step(action)
    other.restore(env.state())
    for action in actions[10:]:
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])


def test_bars_stand_out_as_far_as_drawn():
    env = task("HalfCheetah-v5", obstacles=(0.1, 0.2), ground=(0.05, 0.1))
    for seed in range(3):
        _, info = env.reset(seed=seed)
        inner, drawn = env.unwrapped, info["perturbation"]
        assert surface(inner.model, inner.data, 6.0, 0.0) == pytest.approx(drawn["obstacles"])
        ground = surface(inner.model, inner.data, 4.5, 0.0)
        assert 0 <= ground <= drawn["ground"] + 1e-9
        assert surface(inner.model, inner.data, 0.9, 0.25) == pytest.approx(0.0, abs=1e-5)


def test_level_ground_is_nearly_the_floor():
    """A height field of no height holds a robot as the plane does."""
    plain, env = gym.make("HalfCheetah-v5"), task("HalfCheetah-v5", ground=(0.0, 0.0))
    still = np.zeros((40, 6), np.float32)
    before, after = play(plain, still)[-1][0], play(env, still)[-1][0]
    np.testing.assert_allclose(before[0], after[0], atol=0.01)  # the height of the trunk


# Refusals


@pytest.mark.parametrize(
    ("amounts", "says"),
    [
        ({"friction": 0.0}, r"friction must be between 0.01 and 10, .* got 0.0"),
        ({"friction": (1.5, 0.5)}, r"friction must be .* got \(1.5, 0.5\)"),
        ({"mass": float("nan")}, "mass must be between 0.1 and 10"),
        ({"gravity": -1.0}, "gravity must be between 0 and 10"),
        ({"action_delay": 1.5}, "action_delay must be .* whole numbers, got 1.5"),
        ({"ground": 2.0}, "ground must be between 0 and 1"),
        ({"push_rate": 1.5}, r"push_rate must be in \[0, 1\], got 1.5"),
        ({"mass": [2.0, 1.0]}, r"mass must be .* got \[2.0, 1.0\]"),
        ({"mass": "1"}, "mass must be .* got 1"),
        ({"mass": None}, "mass must be .* got None"),
        ({"action_delay": float("inf")}, "action_delay must be"),
        ({"mass": True}, "mass must be .* got True"),
        ({"mass": ("1", "2")}, "mass must be .* got"),
        ({"push_rate": "a"}, r"push_rate must be in \[0, 1\], got 'a'"),
        ({"wind": 1.0}, "nothing called 'wind' to change; known: friction, mass, gravity"),
    ],
)
def test_amounts_that_are_refused(amounts, says):
    with pytest.raises(ValueError, match=says):
        task(**amounts)


@pytest.mark.parametrize("name", ["Swimmer-v5", "InvertedDoublePendulum-v5", "Reacher-v5"])
def test_tasks_without_a_floor_to_stand_on_are_refused(name):
    with pytest.raises(ValueError, match="need a robot on a floor that is a plane at height 0"):
        task(name, obstacles=0.1)


@pytest.mark.parametrize(
    ("name", "quantity", "says"),
    [
        ("maxentflow/TwoPathsMaze-v0", "gravity", "has no gravity to change"),
        ("InvertedPendulum-v5", "friction", "has no friction to change: nothing in it touches"),
    ],
)
def test_what_would_have_no_effect_is_refused(name, quantity, says):
    with pytest.raises(ValueError, match=says):
        task(name, **{quantity: 0.5})


def test_one_wrapper_has_the_ground():
    env = task(friction=2.0)
    env.reset(seed=0)
    outer = Perturbed(env, ground=0.1)  # another model, after a reset
    outer.reset(seed=0)
    with pytest.raises(ValueError, match="ground and obstacles need to be in one Perturbed"):
        Perturbed(outer, obstacles=0.1)


def test_noise_needs_numbers_it_can_be_added_to():
    env = gym.make("maxentflow/TwoPathsMaze-v0").unwrapped  # the maze below, of dictionaries
    with pytest.raises(ValueError, match="observation_noise needs observations of real numbers"):
        Perturbed(env, observation_noise=0.1)


def test_an_action_may_be_used_again_by_whoever_gave_it():
    env, other = (task("HalfCheetah-v5", action_delay=2) for _ in range(2))
    actions, buffer = actions_for(env, 10), np.zeros(6, np.float32)
    found = []
    for one, give in ((env, lambda action: action), (other, lambda action: buffer)):
        one.reset(seed=0)
        for action in actions:
            buffer[:] = action
            observation, *_ = one.step(give(action))
        found.append(observation)
    np.testing.assert_array_equal(*found)
    with pytest.raises(ValueError, match=r"action must have shape \(6,\), got \(1,\)"):
        env.step(np.zeros(1))


def test_tasks_without_mujoco_are_refused():
    with pytest.raises(ValueError, match="needs a task of MuJoCo, got Pendulum-v1"):
        Perturbed(gym.make("Pendulum-v1"), mass=2.0)
    with pytest.raises(ValueError, match="needs a task of MuJoCo, got TwoPathsEnv"):
        Perturbed(envs.TwoPathsEnv(), mass=2.0)
