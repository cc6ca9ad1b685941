"""Base distributions against torch.distributions, scipy and quadrature."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable

import pytest
import scipy
import torch
from torch import Tensor, nn
from torch import distributions as td

from maxentflow.flows import AffineCoupling, Base, EnergyBasedFlow, StandardNormal, StateScale
from maxentflow.flows.gaussian_mixture import GaussianMixture
from maxentflow.flows.student_t import StudentT
from maxentflow.flows.uniform import Uniform

from .cases import HIDDEN, action_grid, largest, normalisation_error, perturb, uniform

CONTEXT_DIM = 3
SMALL = {"components": 3, "hidden": HIDDEN, "max_log_scale": 1.0}
BASES: dict[str, Callable[[int], Base]] = {
    "StandardNormal": StandardNormal,
    "GaussianMixture": lambda dim: GaussianMixture(dim, CONTEXT_DIM, **SMALL),
    "GaussianMixture-unconditional": lambda dim: GaussianMixture(dim, **SMALL),
    "StudentT": lambda dim: StudentT(dim, df=3.0),
    "Uniform": lambda dim: Uniform(dim, bound=1.5),
}
MIXTURES = ("GaussianMixture", "GaussianMixture-unconditional")
# To compile, and hardly other code than with a context.
LONG = {("GaussianMixture-unconditional", method) for method in ("rsample", "mode")}

over_bases = pytest.mark.parametrize("name", BASES)
over_mixtures = pytest.mark.parametrize("name", MIXTURES)
over_dims = pytest.mark.parametrize("dim", [1, 2, 4])


def make(name: str, dim: int, seed: int = 0) -> Base:
    torch.manual_seed(seed)
    return perturb(BASES[name](dim), noise=0.8).double()


def contexts(*batch: int) -> Tensor:
    return uniform(*batch, CONTEXT_DIM, bound=2)


def mixture_parts(
    base: GaussianMixture, context: Tensor | None
) -> tuple[td.Categorical, td.Normal]:
    """The components' weights, and their entries of shape ``(*batch, components, dim)``."""
    shape, bound = (base.components, base.dim), base.max_log_scale
    raw = base.net(context)
    logits, rest = raw[..., : base.components], raw[..., base.components :]
    means, scales = rest.unflatten(-1, (2, *shape)).unbind(-3)
    scales = (scales / (1 + scales.abs() / bound)).exp()
    return td.Categorical(logits=logits), td.Normal(means, scales)


def torchs(base: Base, context: Tensor | None = None) -> td.Distribution:
    """The same distribution by torch."""
    if isinstance(base, GaussianMixture):
        weights, components = mixture_parts(base, context)
        return td.MixtureSameFamily(weights, td.Independent(components, 1))
    zeros = torch.zeros(base.dim, dtype=torch.float64)
    entries = {
        StandardNormal: lambda: td.Normal(zeros, zeros + 1),
        StudentT: lambda: td.StudentT(base.df),
        Uniform: lambda: td.Uniform(zeros - base.bound, zeros + base.bound, validate_args=False),
    }[type(base)]()
    return td.Independent(entries, 1, validate_args=False)


def conditional_cdfs(base: Base, z: Tensor, context: Tensor | None = None) -> Tensor:
    """Each entry's distribution function given the entries before it."""
    if isinstance(base, StudentT):
        df = base.df.detach().numpy()
        return torch.from_numpy(scipy.stats.t.cdf(z.detach().numpy(), df))
    if not isinstance(base, GaussianMixture):
        return torchs(base).base_dist.cdf(z)
    weights, components = mixture_parts(base, context)
    log_densities = components.log_prob(z.unsqueeze(-2))
    return torch.stack(
        [
            td.MixtureSameFamily(
                td.Categorical(logits=weights.logits + log_densities[..., :i].sum(-1)),
                td.Normal(components.mean[..., i], components.stddev[..., i]),
            ).cdf(z[..., i])
            for i in range(base.dim)
        ],
        dim=-1,
    )


class Call(nn.Module):
    """A base's method as a module's forward, which torch.func calls."""

    def __init__(self, base: Base, method: str) -> None:
        super().__init__()
        self.base = base
        self.method = method

    def forward(self, *inputs: object) -> Tensor:
        return getattr(self.base, self.method)(*inputs)


@over_bases
@over_dims
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_log_prob_is_torchs(name: str, dim: int, batch: tuple[int, ...]) -> None:
    base = make(name, dim)
    z, context = uniform(*batch, dim, bound=3), contexts(*batch)
    expected = torchs(base, context).log_prob(z)
    split = base.unnormalized_log_prob(z, context) - base.log_normalizer(context)
    for value in (base.log_prob(z, context), split):
        assert value.shape == batch
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


@over_bases
@pytest.mark.quick_for("unconditional")
def test_the_normaliser_is_the_logarithm_of_the_integral(name: str) -> None:
    base, context = make(name, 1), contexts()
    end = base.bound if isinstance(base, Uniform) else math.inf

    def density(z: float) -> float:
        return base.unnormalized_log_prob(z * torch.ones_like(base.mode(context)), context).exp()

    with torch.no_grad():
        integral, _ = scipy.integrate.quad(density, -end, end, epsabs=1e-11, limit=200)
        assert abs(math.log(integral) - base.log_normalizer(context)) <= 1e-8


@over_mixtures
def test_a_flow_counts_the_normaliser_in_the_value(name: str) -> None:
    base = make(name, 2)
    layers = [
        StateScale(2, CONTEXT_DIM, bounds=(-1.0, -0.3), hidden=HIDDEN),
        AffineCoupling(2, CONTEXT_DIM, hidden=HIDDEN, max_log_scale=0.5),
    ]
    flow = EnergyBasedFlow(base, layers, temperature=0.5).double().eval()
    grid, observations = action_grid(2, squash=False), uniform(2, CONTEXT_DIM, bound=2)
    assert normalisation_error(flow, grid, observations) <= 1e-7


@over_bases
@over_dims
def test_batches_broadcast(name: str, dim: int) -> None:
    base, batch = make(name, dim), (4, 3, 2)
    z, context = uniform(4, 1, 2, dim, bound=3), contexts(3, 1)
    expected = base.log_prob(z.expand(*batch, -1), context.expand(*batch, -1))
    value = base.log_prob(z, context).expand(batch)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    assert base.rsample(batch, context).shape == (*batch, dim)
    assert torch.broadcast_shapes(base.mode(context).shape, (3, 1, dim)) == (3, 1, dim)


@over_bases
@over_dims
def test_samples_follow_the_density(name: str, dim: int) -> None:
    base = make(name, dim)
    context = contexts()
    z = base.rsample((2500, 2), context)
    assert z.shape == (2500, 2, dim)
    assert z.dtype == torch.float64
    for cdf in conditional_cdfs(base, z, context).flatten(0, 1).detach().T:
        assert scipy.stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("df", [1.5, 30.0, 99.0, 101.0, 1e3, 1e5, 1e9])
def test_the_normaliser_of_student_t_keeps_its_digits(df: float) -> None:
    base = StudentT(1, df)
    exact = -scipy.stats.t.logpdf(0.0, base.df.double().item())
    if df >= 1e5:  # where scipy's difference of logarithms cancels too
        exact = 0.5 * math.log(2 * math.pi) + 0.25 / df
    assert abs(base.log_normalizer().item() - exact) <= 2e-5
    assert abs(StudentT(1, df).double().log_normalizer().item() - exact) <= 1e-7


@pytest.mark.parametrize("log_excess", [-1e30, -200.0, 60.0, 200.0, 1e30])
@pytest.mark.parametrize("z", [0.0, 1.0, 1e10, 1e30])
def test_student_t_is_finite_at_any_parameter_and_latent(log_excess: float, z: float) -> None:
    base = StudentT(1)
    base.log_excess.data.fill_(log_excess)
    latent = torch.tensor([z], requires_grad=True)
    log_prob = base.log_prob(latent)
    limit = td.Cauchy(0.0, 1.0) if log_excess < 0 else td.Normal(0.0, 1.0)
    if log_excess < 0 and z > 1e18:
        expected = -math.log(math.pi) - 2 * math.log(z)
    else:
        expected = limit.log_prob(torch.tensor(z)).item()
    if expected > -1e9:
        assert log_prob.item() == pytest.approx(expected, rel=1e-4)
    gradients = torch.autograd.grad(log_prob, [latent, base.log_excess])
    assert all(value.isfinite().all() for value in (log_prob, *gradients))
    assert base.rsample((100,)).isfinite().all()


@pytest.mark.parametrize("df", [1.01, 2.0, 100.0])
def test_student_t_samples_follow_the_density(df: float) -> None:
    torch.manual_seed(0)
    z = StudentT(1, df).double().rsample((5000,)).detach().flatten().numpy()
    assert scipy.stats.kstest(z, "t", (df,)).pvalue > 1e-3


@over_mixtures
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_mixture_samples_move_at_fixed_conditional_probabilities(name: str, dim: int) -> None:
    """In one dimension, the sample's derivative is that of -F over the density."""
    base, context = make(name, dim), contexts(5)
    parameters = list(base.parameters())
    z = base.rsample((5,), context)
    weights = torch.randn_like(z)
    gradients = torch.autograd.grad((weights * z).sum(), parameters)

    z = z.detach().requires_grad_()
    cdfs = conditional_cdfs(base, z, context)
    rows = [torch.autograd.grad(s.sum(), z, retain_graph=True)[0] for s in cdfs.unbind(-1)]
    along = -torch.linalg.solve(torch.stack(rows, dim=-2).mT, weights)
    expected = torch.autograd.grad((along * cdfs).sum(), parameters)
    for value, other in zip(gradients, expected, strict=True):
        assert largest(value - other) <= 1e-9 * (1 + largest(other))


def within_five_standard_errors(
    estimates: Tensor, expected: Tensor | float, precision: float
) -> bool:
    """Of the mean of rows, whose standard errors are to be below ``precision``."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    close = (estimates.mean(0) - expected).abs() <= 5 * error + 1e-12
    return bool(close.all()) and largest(error) <= precision


def test_sampled_gradients_of_a_mixtures_moments_are_unbiased() -> None:
    base = make("GaussianMixture-unconditional", 2)
    weights, components = mixture_parts(base, None)
    second = components.mean[:, 0] * components.mean.sum(-1) + components.variance[:, 0]
    moment = (weights.probs * (second + components.mean[:, 1])).sum()
    expected = torch.autograd.grad(moment, base.net.value)[0]

    def estimate() -> Tensor:
        first, other = base.rsample((4000,)).unbind(-1)
        return torch.autograd.grad((first * (first + other) + other).mean(), base.net.value)[0]

    estimates = torch.stack([estimate() for _ in range(50)])
    assert within_five_standard_errors(estimates, expected, precision=0.03)


def test_sampled_gradients_in_the_degrees_of_freedom_are_unbiased() -> None:
    base, df, step = make("StudentT", 1), 2.5, 1e-3

    def expectation(df: float) -> float:
        def integrand(z: float) -> float:
            return math.log1p(z * z) * scipy.stats.t.pdf(z, df)

        return scipy.integrate.quad(integrand, -math.inf, math.inf, epsabs=1e-12)[0]

    slope = (expectation(df + step) - expectation(df - step)) / (2 * step)
    with torch.no_grad():
        base.log_excess.fill_(math.log(df - 1))

    def estimate() -> Tensor:
        mean = torch.log1p(base.rsample((4000,)).square()).mean()
        return torch.autograd.grad(mean, base.log_excess)[0] / (df - 1)

    estimates = torch.stack([estimate() for _ in range(50)])
    assert within_five_standard_errors(estimates, slope, precision=1e-3)


@pytest.mark.parametrize("name", [name for name in BASES if name != "Uniform"])
@pytest.mark.parametrize("far", [-50.0, 50.0])
def test_far_latents_have_finite_gradients_in_single_precision(name: str, far: float) -> None:
    base, context = make(name, 2).float(), contexts(1).float()
    z = torch.full((1, 2), far, requires_grad=True)
    log_prob = base.log_prob(z, context)
    log_prob.sum().backward()
    assert log_prob.dtype == torch.float32
    gradients = [z.grad, *(parameter.grad for parameter in base.parameters())]
    assert all(tensor.isfinite().all() for tensor in (log_prob, *gradients))


@over_bases
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_no_point_of_a_grid_is_likelier_than_the_mode(name: str, dim: int, seed: int) -> None:
    base = make(name, dim, seed)
    context = contexts()
    grid = action_grid(dim, squash=False)
    with torch.no_grad():
        highest = base.log_prob(grid.action, context).max()
        assert base.log_prob(base.mode(context), context) >= highest - 1e-9


def test_the_unnormalized_density_is_zero_at_the_standard_normals_mode() -> None:
    base = StandardNormal(3)
    assert base.unnormalized_log_prob(base.mode()) == 0


@pytest.mark.parametrize("bound", [0.7, 1.0, 3.0])
def test_the_uniforms_ends_are_inside(bound: float) -> None:
    base, end = Uniform(1, bound), torch.tensor([bound])
    for z in (end, -end):
        assert base.log_prob(z) == -math.log(2 * bound)
        assert base.log_prob(z.nextafter(2 * z)) == -math.inf


def test_a_mixture_starts_with_distinct_means_the_same_for_every_context() -> None:
    torch.manual_seed(0)
    base = GaussianMixture(2, CONTEXT_DIM).double()
    _, components = mixture_parts(base, contexts(5))
    assert torch.pdist(components.mean[0]).min() > 1e-2
    assert largest(components.mean - components.mean[0]) == 0


@over_bases
def test_calling_it_gives_latents_and_their_log_prob(name: str) -> None:
    base, context = make(name, 2), contexts(7)
    z, log_prob = base(7, context)
    assert z.shape == (7, 2)
    assert torch.equal(log_prob, base.log_prob(z, context))


@over_bases
def test_a_saved_state_dict_restores_the_base(name: str) -> None:
    base, other = make(name, 2), make(name, 2, seed=9)
    z, context = uniform(5, 2, bound=3), contexts(5)
    file = io.BytesIO()
    torch.save(base.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.log_prob(z, context), base.log_prob(z, context))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        pytest.param(name, method, marks=[pytest.mark.slow] if (name, method) in LONG else [])
        for name in BASES
        for method in ("log_prob", "rsample", "mode")
    ],
)
@pytest.mark.quick_for("StandardNormal")
def test_compiled_bases_are_eager_ones(name: str, method: str) -> None:
    torch.compiler.reset()
    base, context = make(name, 2), contexts(5)
    first = {"log_prob": (uniform(5, 2, bound=1),), "rsample": ((5,),), "mode": ()}[method]
    eager = Call(base, method)
    values = []
    for call in (eager, torch.compile(eager, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        values.append(call(*first, context))
    torch.testing.assert_close(*values, rtol=0, atol=1e-10)


@over_bases
@pytest.mark.parametrize("method", ["log_prob", "rsample", "mode"])
def test_stacked_bases_run_under_vmap(name: str, method: str) -> None:
    calls = [Call(make(name, 2, seed), method) for seed in range(3)]
    z, context = uniform(5, 2, bound=1), contexts(5)
    inputs = {"log_prob": (z, context), "rsample": ((5,), context), "mode": (context,)}[method]

    def one(state: dict) -> Tensor:
        return torch.func.functional_call(calls[0], state, inputs)

    parameters, buffers = torch.func.stack_module_state(calls)
    stacked = torch.func.vmap(one, randomness="different")({**parameters, **buffers})
    assert len(stacked) == 3
    if method == "rsample":
        assert stacked.shape == (3, 5, 2)
        assert all(largest(a - b) > 1e-4 for a, b in itertools.pairwise(stacked))
    else:
        for value, call in zip(stacked, calls, strict=True):
            assert largest(value - call(*inputs)) <= 1e-10


REFUSED: dict[str, Callable[[], object]] = {
    r"StandardNormal needs dim >= 1, got 0\.": lambda: StandardNormal(0),
    r"StandardNormal needs dim >= 1, got -1\.": lambda: StandardNormal(-1),
    r"GaussianMixture needs .*, got dim=0, components=8\.": lambda: GaussianMixture(0),
    r"GaussianMixture needs .*, got dim=1, components=0\.": lambda: GaussianMixture(
        1, components=0
    ),
    r"max_log_scale must be positive and finite, got 0\.": lambda: GaussianMixture(
        1, max_log_scale=0
    ),
    r"max_log_scale must be positive and finite, got inf\.": lambda: GaussianMixture(
        1, max_log_scale=math.inf
    ),
    r"GaussianMixture takes no dropout": lambda: GaussianMixture(1, 3, dropout=0.1),
    r"GaussianMixture needs a context, got None\.": lambda: GaussianMixture(1, 3).mode(),
    r"StudentT needs dim >= 1, got 0\.": lambda: StudentT(0),
    r"df must be above 1 and finite, got 1\.": lambda: StudentT(1, df=1),
    r"df must be above 1 and finite, got inf\.": lambda: StudentT(1, df=math.inf),
    r"df must be above 1 and finite, got nan\.": lambda: StudentT(1, df=math.nan),
    r"Uniform needs dim >= 1, got 0\.": lambda: Uniform(0),
    r"bound must be positive and finite, got 0\.": lambda: Uniform(1, bound=0),
    r"bound must be positive and finite, got inf\.": lambda: Uniform(1, bound=math.inf),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
