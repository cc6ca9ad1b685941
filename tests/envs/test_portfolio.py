"""Portfolio: growth by hand, statistics by definition, prices that are refused."""

import re

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maxentflow import agents, envs
from maxentflow.agents.parts.spaces import continuous_sizes, entropy_of
from maxentflow.envs import Backtest, PortfolioEnv, PortfolioScoresEnv, Prices, Simplex, simulated

EQUAL = np.full(8, 0.125, np.float32)


def frame(days=400, columns=("A", "B", "C")):
    random = np.random.default_rng(0)
    values = 100 * np.exp(random.normal(0, 0.01, (days, len(columns))).cumsum(0))
    return pd.DataFrame(values, pd.bdate_range("2000-01-03", periods=days), columns)


def act_equally(observation):
    return np.tile(EQUAL, (len(observation), 1))


# Growth


def test_an_episode_by_hand():
    """Money in each asset, followed day by day, with costs taken where shares are traded."""
    prices = frame()
    env = PortfolioEnv(prices, start="2001-02-26", days=15, hold=5, cost=0.01)
    observation, _ = env.reset(seed=4)
    day = env.day
    random = np.random.default_rng(1)
    money = np.full(3, 1 / 3)
    for _ in range(3):
        wealth = money.sum()
        shares = random.dirichlet(np.ones(3)).astype(np.float32).astype(np.float64)
        shares /= shares.sum()
        traded = np.abs(shares - money / wealth).sum()
        money = wealth * (1 - 0.01 * traded) * shares
        money = money * prices.values[day + 5] / prices.values[day]
        day += 5
        observation, reward, terminated, truncated, info = env.step(shares)
        assert reward == pytest.approx(100 * np.log(money.sum() / wealth), rel=1e-9)
        assert info["turnover"] == pytest.approx(traded)
        assert observation[-3:] == pytest.approx(money / money.sum(), rel=1e-6)
    assert not terminated
    assert truncated
    assert np.exp(np.sum(env.backtest.returns)) == pytest.approx(money.sum())
    assert len(env.backtest.returns) == 15


def test_observations_are_returns_and_volatilities_of_the_past():
    prices = frame()
    env = PortfolioEnv(prices, start="2001-03", days=5)
    observation, _ = env.reset(seed=0)
    logs = np.log(prices.values)
    daily = np.diff(logs, axis=0)
    now = env.day
    expected = [100 * (logs[now] - logs[now - h]) / np.sqrt(h) for h in (1, 5, 21, 63, 252)]
    expected += [100 * daily[now - window : now].std(0) for window in (21, 63)]
    assert observation[:-3] == pytest.approx(np.concatenate(expected), rel=1e-4, abs=1e-5)


def test_nothing_of_the_future_is_observed():
    prices = frame()
    changed = prices.copy()
    changed.iloc[301:] *= 1.5
    seen = [
        PortfolioEnv(table.values, start=300, days=None).reset(seed=0)[0]
        for table in (prices, changed)
    ]
    assert (seen[0] == seen[1]).all()


def test_scores_are_a_softmax():
    env = PortfolioScoresEnv()
    env.reset(seed=0)
    scores = np.linspace(-1.5, 1.0, 8)
    env.step(scores)
    expected = np.exp(5 * scores.clip(-1, 1)) / np.exp(5 * scores.clip(-1, 1)).sum()
    assert env.backtest.shares[0] == pytest.approx(expected)


def test_dates_choose_the_days():
    prices = frame()
    env = PortfolioEnv(prices, start="2001-03-03", end="2001-05-05", days=None)  # Saturdays
    first, last = prices.index[env.first], prices.index[env.last]
    assert (str(first.date()), str(last.date())) == ("2001-03-05", "2001-05-04")
    assert env.days == (env.last - env.first) // 5 * 5
    assert PortfolioEnv(prices, assets=["C", "A"]).prices.values[0].tolist() == (
        prices[["C", "A"]].values[0].tolist()
    )


def test_a_month_and_a_year_end_with_their_last_day():
    prices = Prices.of(frame())
    days = frame().index
    assert str(days[prices.until("2000")].date()) == "2000-12-29"
    assert str(days[prices.until("2000-02")].date()) == "2000-02-29"
    assert str(days[prices.until("2000-02-28")].date()) == "2000-02-28"
    assert str(days[prices.day("2001")].date()) == "2001-01-01"
    assert Prices.of(frame().values).day(np.int64(7)) == 7


def test_dates_of_other_kinds():
    for index in (
        frame().index.tz_localize("Europe/Berlin"),
        [day.date() for day in frame().index],
        frame().index.strftime("%Y-%m-%d"),
        frame().index.to_period("D"),
    ):
        assert (Prices.of(frame().set_axis(index)).dates == Prices.of(frame()).dates).all()


def test_prices_of_the_callers_may_change():
    values = frame().values.copy()
    env = PortfolioEnv(values, days=20)
    values[:] = 1.0
    assert env.prices.values.std() > 0


def test_what_one_is_told_after_the_end():
    env = PortfolioEnv(days=5)
    env.reset(seed=0)
    assert env.step(EQUAL)[3]
    with pytest.raises(ValueError, match="The episode is over; reset begins another"):
        env.step(EQUAL)


def test_resume_in_the_middle_of_an_episode():
    env, other = PortfolioEnv(), PortfolioEnv()
    env.reset(seed=0)
    env.step(EQUAL)
    other.reset(seed=9)
    other.load_state_dict(env.state_dict())
    for _ in range(2):
        first, second = env.step(EQUAL), other.step(EQUAL)
        assert (first[0] == second[0]).all()
        assert first[1] == second[1]
    assert env.backtest.statistics() == other.backtest.statistics()


# What one is judged by


def test_statistics_by_definition():
    daily = np.array([0.01, -0.02, 0.03, -0.01, 0.0])
    shares = [np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.2, 0.6])]
    found = Backtest(np.log1p(daily).tolist(), shares, [0.3, 0.1]).statistics()
    table = pd.Series(daily)
    assert found["annual_return"] == pytest.approx(252 * table.mean())
    assert found["volatility"] == pytest.approx(252**0.5 * table.std())
    assert found["sharpe"] == pytest.approx(252**0.5 * table.mean() / table.std())
    assert found["sortino"] == pytest.approx(252**0.5 * 0.002 / np.sqrt(0.0005 / 5))
    wealth = pd.Series([1.0, *(1 + table).cumprod()])
    assert found["drawdown"] == pytest.approx((1 - wealth / wealth.cummax()).max())
    assert found["turnover"] == pytest.approx(0.4 * 252 / 5)
    assert found["effective_assets"] == pytest.approx(
        np.mean([np.exp(stats.entropy(each)) for each in shares])
    )
    assert found["largest_halved"] == pytest.approx((0.25 + 0.3) / 2)


def test_no_risk_has_no_ratio():
    found = Backtest([0.001] * 99, [np.array([1.0, 0.0])], [0.0]).statistics()
    assert np.isnan(found["sharpe"])
    assert np.isnan(found["sortino"])


def test_the_simulated_market():
    """Volatilities of each regime are those of the docstring; tails are fat; the seed decides."""
    prices = simulated(years=2_000, assets=3, seed=5)
    daily = np.diff(np.log(prices.values), axis=0)
    # By the law of total variance, over regimes that last 750 and 125 days on average.
    beta, own = _of_seed(5, 3)
    calm, crisis = 750 / 875, 125 / 875
    variance = calm * ((0.12 * beta) ** 2 + own**2) + crisis * (
        (0.30 * beta) ** 2 + (1.5 * own) ** 2
    )
    assert 252 * daily.var(0) == pytest.approx(variance, rel=0.06)
    assert (stats.kurtosis(daily) > 3).all()
    assert (simulated(years=1, seed=3).values == simulated(years=1, seed=3).values).all()
    assert (simulated(years=1, seed=3).values != simulated(years=1, seed=4).values).any()


def _of_seed(seed, assets):
    random = np.random.default_rng(seed)
    beta = random.permutation(np.linspace(0.4, 1.6, assets))
    return beta, random.permutation(np.linspace(0.10, 0.40, assets))


# The space


def test_samples_of_the_simplex_are_uniform():
    """Each share of n has the beta distribution (1, n - 1)."""
    space = Simplex(4, seed=0)
    samples = np.array([space.sample() for _ in range(4_000)])
    assert samples.sum(1) == pytest.approx(np.ones(4_000), abs=1e-6)
    for share in samples.T:
        assert stats.kstest(share, stats.beta(1, 3).cdf).pvalue > 1e-3


def test_points_of_a_vector_environment():
    env = envs.make("maxentflow/Portfolio-v0", num_envs=2)
    env.reset(seed=0)
    actions = env.action_space.sample()
    assert actions.shape == (2, 8)
    assert actions in env.action_space
    assert env.single_action_space == Simplex(8)
    assert Simplex(8) != gym.spaces.Box(0.0, 1.0, (8,), np.float32)
    env.step(actions)


@pytest.mark.parametrize(
    ("shares", "contained"),
    [
        ([0.5, 0.5, 0.0], True),
        ([0.5, 0.5, 1e-5], True),
        ([0.5, 0.6, -0.1], False),
        ([0.5, 0.4, 0.0], False),
        ([0.5, 0.5], False),
        ([np.nan, 0.5, 0.5], False),
        (["a", "b", "c"], False),
    ],
)
def test_points_of_the_simplex(shares, contained):
    assert Simplex(3).contains(shares) is contained


def test_target_entropy_of_shares_can_be_reached():
    """As far below the uniform distribution as in the box, for each degree of freedom."""
    box, shares = gym.spaces.Box(-1.0, 1.0, (7,)), Simplex(8)
    uniform = stats.dirichlet(np.ones(8)).entropy()
    assert entropy_of(shares, np.log(2)) == pytest.approx(uniform)
    for entry in (-1.0, -0.5, 0.5):
        assert uniform - entropy_of(shares, entry) == pytest.approx(
            7 * np.log(2) - entropy_of(box, entry)
        )


# Agents


@pytest.mark.parametrize("name", ["meow", "flow-sac"])
@pytest.mark.quick_for("flow-sac")
def test_flows_act_on_shares(name):
    env = envs.make("maxentflow/Portfolio-v0", seed=0)
    agent = agents.make(name, env, **({"hidden": (16, 16)} if name == "flow-sac" else {}))
    assert agent.config.squash == "simplex"
    config = agents.TrainerConfig(
        total_steps=60, warmup_steps=50, batch_size=8, replay_size=100, eval_every=0
    )
    trainer = agents.Trainer(agent, env, config, progress=False)
    trainer.run()
    stored = trainer.experience.buffer[:]["action"]
    assert stored.sum(-1).numpy() == pytest.approx(np.ones(60), abs=1e-4)
    assert agent.loss.target_entropy == pytest.approx(
        entropy_of(env.single_action_space, agent.config.target_entropy)
    )


def test_agents_that_act_elsewhere_are_refused():
    shares, scores = (envs.make(f"maxentflow/{n}-v0") for n in ("Portfolio", "PortfolioScores"))
    with pytest.raises(
        ValueError, match="Agent 'td3' acts between -1 and 1, the environment takes"
    ):
        agents.make("td3", shares)
    with pytest.raises(ValueError, match="no other flow does; got squash='tanh'"):
        agents.make("meow", shares, squash="tanh")
    with pytest.raises(ValueError, match="no other flow does; got squash='simplex'"):
        agents.make("meow", scores, squash="simplex")
    assert agents.make("meow", scores).config.squash == "tanh"
    assert continuous_sizes(scores, "td3") == ((64,), 8)


# Refusals


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prices": "nasdaq"}, "prices must be 'simulated', 'historical', a data frame"),
        ({"prices": frame().iloc[:, :1]}, "at least 2 assets, got (400, 1)"),
        ({"prices": frame().where(frame() != frame().iloc[1])}, "A on 2000-01-04 is nan, and 2"),
        ({"prices": -np.ones((300, 2))}, "finite and positive; 0 on day 0 is -1.0"),
        ({"prices": frame().iloc[::-1]}, "must increase from row to row"),
        ({"prices": frame(columns=("A", "A"))}, "names of assets must differ, got A, A"),
        ({"prices": frame().astype(str) + "x"}, "Prices must be numbers"),
        ({"assets": ["gold"]}, "Unknown asset 'gold'; there are asset 0, asset 1"),
        ({"start": "2010-01-01"}, "These prices have no dates"),
        ({"prices": frame(), "start": "soon"}, "have dates; 'soon' is none, such as 2010-12-31"),
        ({"prices": frame(), "end": "soon"}, "have dates; 'soon' is none, such as 2010-12-31"),
        ({"prices": frame(), "end": ""}, "have dates; '' is none"),
        ({"prices": frame(), "end": 2001}, "have dates; 2001 is none"),
        ({"prices": frame(), "end": "1999"}, "The prices begin on 2000-01-03, after 1999"),
        ({"prices": frame().values, "start": -1}, "There are days 0 to 399, got -1"),
        ({"prices": frame().values, "end": 400}, "There are days 0 to 399, got 400"),
        ({"prices": frame().values, "start": True}, "True must be the number of a day"),
        ({"prices": frame().set_axis(range(400)), "end": 20101231}, "There are days 0 to 399"),
        ({"prices": frame().set_axis([pd.NaT, *frame().index[1:]])}, "must increase"),
        ({"prices": frame().set_axis([f"day {n}" for n in range(400)])}, "must be dates, or"),
        ({"prices": None}, "at least 2 assets, got ()"),
        ({"hold": 2.0}, "hold must be a whole number of days, at least 1, got 2.0"),
        ({"days": 252.0}, "days must be at least hold, 5, or None, got 252.0"),
        ({"cost": "0.1"}, "cost must be at least 0 and below 0.5, got '0.1'"),
        ({"prices": frame(), "start": "2050-01-01"}, "end on 2001-07-13, before 2050-01-01"),
        ({"prices": frame(), "end": "2000-06-01"}, "there is no time to hold a portfolio"),
        ({"prices": frame().values, "start": 397}, "there is no time to hold a portfolio"),
        ({"hold": 0}, "hold must be a whole number of days, at least 1, got 0"),
        ({"days": 3}, "days must be at least hold, 5, or None, got 3"),
        ({"cost": 0.5}, "cost must be at least 0 and below 0.5, got 0.5"),
        ({"cost": float("nan")}, "cost must be"),
    ],
)
def test_what_is_refused_at_construction(how, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PortfolioEnv(**how)


def test_actions_that_are_refused():
    env, other = PortfolioEnv(), PortfolioScoresEnv()
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match="8 shares that add up to 1, got"):
        env.step(np.full(8, 0.2))
    with pytest.raises(ValueError, match="8 finite scores, got"):
        other.step(np.full(8, np.nan))
    with pytest.raises(ValueError, match="at least 2 shares, got size=1"):
        Simplex(1)
    with pytest.raises(ValueError, match="neither mask nor probability"):
        Simplex(2).sample(np.ones(2, np.int8))
    with pytest.raises(
        ValueError, match="Statistics need 2 days and more, and shares; got 0 days"
    ):
        Backtest().statistics()
    with pytest.raises(ValueError, match="at least 1 year and 2 assets, got years=0"):
        simulated(years=0)


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skfolio.datasets", None)
    with pytest.raises(ValueError, match=r"Historical prices need skfolio: pip install 'maxent"):
        Prices.of("historical")


@pytest.mark.slow
def test_figures(tmp_path):
    for kind in (PortfolioEnv, PortfolioScoresEnv):
        words = kind.summary(act_equally, tmp_path / "portfolio.png", days=30)
        # Equal actions are equal shares, and equal scores are too.
        assert "effective number of assets 8.0 of 8" in words
        assert plt.imread(tmp_path / "portfolio.png").std() > 0.05
    three = np.full(3, 1 / 3)
    words = PortfolioEnv.summary(
        lambda x: np.tile(three, (len(x), 1)), tmp_path / "own.png", prices=frame(), hold=2
    )
    assert words.endswith("effective number of assets 3.0 of 3")
    env = PortfolioEnv(render_mode="rgb_array")
    env.reset(seed=0)
    empty = env.render()
    env.step(EQUAL)
    assert env.render().shape == empty.shape == (240, 360, 3)
    assert (env.render() != empty).any()
