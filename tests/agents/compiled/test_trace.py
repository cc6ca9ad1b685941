"""Traced functions against the originals, with other states, other seeds and in batches."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Exponential, Gumbel, Normal, Uniform
from torch.func import vmap
from torch.nn import functional as F

from maxentflow.agents.compiled.trace import compile_function, stored, trace

SHAPE = (5, 7)  # more than the 16 entries from which on torch draws normals in another way


def scaled_in_place(x):
    noise = torch.rand(SHAPE)
    noise.mul_(2).sub_(1)
    return x + noise


DRAWS = {
    "randn": lambda x: x + torch.randn(SHAPE),
    "randn in double": lambda x: x + torch.randn(SHAPE, dtype=torch.float64),
    "rand": lambda x: x * torch.rand(SHAPE),
    "randint": lambda x: x + torch.randint(9, SHAPE),
    "randint from": lambda x: x + torch.randint(-3, 9, SHAPE),
    "randperm": lambda x: x[torch.randperm(5)],
    "normal": lambda x: x + torch.normal(1.0, 2.0, SHAPE),
    "randn_like": lambda x: x + torch.randn_like(x),
    "rand_like": lambda x: x + torch.rand_like(x),
    "randint_like": lambda x: x + torch.randint_like(x, 2, 9),
    "normal_": lambda x: x + torch.empty(SHAPE).normal_(1.0, 2.0),
    "uniform_": lambda x: x + torch.empty(SHAPE).uniform_(-3, 2),
    "exponential_": lambda x: x + torch.empty(SHAPE).exponential_(2.0),
    "bernoulli_": lambda x: x + torch.empty(SHAPE).bernoulli_(0.25),
    "Normal": lambda x: Normal(x, x.exp()).rsample(),
    "Normal, several": lambda x: Normal(x, x.exp()).rsample((2, 3)),
    "Uniform": lambda x: Uniform(x, x + 2).rsample(),
    "Exponential": lambda x: Exponential(x.exp()).rsample(),
    "Gumbel": lambda x: Gumbel(x, x.exp()).rsample(),
}
CHANGED = {
    "Dropout": nn.Dropout(0.25).train(),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.25, True),
    "dropout1d": lambda x: F.dropout1d(x, 0.25, True),
    "in place": scaled_in_place,
}
COMPUTED = {
    "normal": lambda x: torch.normal(x, x.exp()),
    "normal, mean": lambda x: torch.normal(x, 1.0),
    "normal, std": lambda x: torch.normal(1.0, x.exp()),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli_": lambda x: torch.empty(SHAPE).bernoulli_(x.sigmoid()),
    "multinomial": lambda x: torch.multinomial(x.exp(), 2),
    "poisson": lambda x: torch.poisson(x.exp()),
    "gamma": lambda x: torch._standard_gamma(x.exp()),
    "Normal.sample": lambda x: Normal(x, x.exp()).sample(),
}
VIEWS = {
    "whole": lambda w: w,
    "slice": lambda w: w[3:9],
    "entry": lambda w: w[5],
    "end": lambda w: w[20:],
    "nothing": lambda w: w[5:5],
    "matrix": lambda w: w[3:15].view(3, 4),
    "transposed": lambda w: w[3:15].view(3, 4).t(),
    "permuted": lambda w: w.view(2, 3, 4).permute(2, 0, 1),
    "column": lambda w: w.view(6, 4)[:, 1],
    "every third": lambda w: w[2::3],
    "expanded": lambda w: w[5:6].expand(4),
}


def by_name(cases):
    return pytest.mark.parametrize("function", cases.values(), ids=cases.keys())


def seeded(function, *arguments, seed=7):
    """What it gives, and the generator's next number."""
    torch.manual_seed(seed)
    return function(*arguments), torch.rand(1)


def assert_same(function, *inputs, state=()):
    traced = trace(lambda *given: (function(*given),), inputs, state)
    first, _ = seeded(function, *inputs)
    for seed in (7, 8):
        expected, after = seeded(function, *inputs, seed=seed)
        (result,), next_number = seeded(
            lambda: traced.graph(*state, *inputs, *traced.draw()), seed=seed
        )
        assert torch.equal(result, expected)
        assert torch.equal(next_number, after)
    assert not torch.equal(first, expected)
    return traced


# Random numbers


@by_name({**DRAWS, **CHANGED})
def test_draws_are_the_originals(function):
    traced = assert_same(function, torch.randn(SHAPE))
    assert len(traced.draws) == 1


def test_draws_of_several_kinds_in_order():
    def mixed(x, y):
        scale = torch.rand(())
        torch.randn(3)  # is not used, and moves the generator all the same
        x = F.dropout(x + torch.randn_like(x), 0.5)
        return scale * x + torch.empty(7).uniform_() * y.sum() * torch.rand(())

    traced = assert_same(mixed, torch.randn(SHAPE), torch.randn(3))
    assert [draw.shape for draw in traced.draw()] == [(), (3,), SHAPE, SHAPE, (7,), ()]


def test_integers_that_follow_each_other_are_one_draw():
    """A hash of positions asks for two numbers for each mask; a dispatch costs more than both."""

    def several(x):
        start, key = torch.randint(-9, 9, (2,)).unbind()
        middle = torch.randint(-9, 9, (3,)).sum() * torch.randint(-9, 9, (1,))
        other = torch.randint(-9, 8, (1,)) + torch.randint(-9, 9, (2, 2)).sum()
        last = torch.randint(-9, 9, (4,), dtype=torch.int32).sum()
        again = torch.randint(-9, 9, (2,)).sum() + torch.randint(-9, 9, (2,)).prod()
        return x * start + key - middle + other * 0.5 + last * x.square() + again

    traced = assert_same(several, torch.randn(SHAPE))
    assert [draw.shape for draw in traced.draw()] == [(6,), (1,), (2, 2), (4,), (4,)]


@by_name({**DRAWS, **CHANGED})
def test_tracing_spares_the_generator(function):
    x = torch.randn(SHAPE)
    before = torch.get_rng_state()
    trace(lambda x: (function(x),), [x], [])
    assert torch.equal(torch.get_rng_state(), before)


@by_name(COMPUTED)
def test_draws_from_what_is_computed_are_refused(function):
    x = torch.randn(SHAPE)
    before = torch.get_rng_state()
    with pytest.raises(NotImplementedError, match=r"draws from a distribution that is computed"):
        trace(lambda x: (function(x),), [x], [])
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_on_another_device_are_refused():
    elsewhere = torch.ones(3, device="meta")
    with pytest.raises(NotImplementedError, match=r"shape \(3,\) on meta, the rest is on cpu"):
        trace(lambda x: (x + torch.ones_like(elsewhere, device="cpu"),), [torch.ones(3)], [])


def test_a_generator_of_ones_own_is_refused():
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(NotImplementedError):
        trace(lambda x: (x + torch.rand(SHAPE, generator=generator),), [torch.ones(SHAPE)], [])


@by_name({"randn": torch.randn_like, "rand": torch.rand_like, "Dropout": nn.Dropout(0.25)})
def test_draws_in_the_order_of_a_transposed_tensors_memory(function):
    assert_same(lambda x: function(x.t()), torch.randn(SHAPE))


def part(x):
    noise = torch.zeros(SHAPE)
    noise[:3].uniform_()
    return x + noise


def whole_after_its_view(x):
    noise = torch.zeros(7, 5)
    view = noise.t()
    noise.uniform_()
    return x + view


@pytest.mark.parametrize("function", [part, whole_after_its_view])
def test_draws_seen_through_another_view_agree_or_are_refused(function):
    try:
        trace(lambda x: (function(x),), [torch.randn(SHAPE)], [])
    except NotImplementedError:
        return
    assert_same(function, torch.randn(SHAPE))


@by_name({**DRAWS, **CHANGED})
def test_arguments_are_left_as_they_are(function):
    weight, x = torch.randn(7), torch.randn(SHAPE)
    traced = trace(lambda x: (function(x * weight),), [x], [weight])
    arguments = [weight, x, *traced.draw()]
    before = [tensor.clone() for tensor in arguments]
    first, again = traced.graph(*arguments), traced.graph(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))
    assert torch.equal(*first, *again)


# State


@by_name(VIEWS)
def test_views_of_the_state(function):
    weight, other, x = torch.randn(24), torch.randn(24), torch.randn(2)
    view = function(weight)
    traced = trace(lambda x: (x.sum() + view,), [x], [weight])
    for state in (weight, other):
        assert torch.equal(*traced.graph(state, x), x.sum() + function(state))


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_a_state_that_lies_within_another_tensor(name):
    """As the rows of a stack do, when it is traced and when it is given."""
    stack, x = torch.randn(3, 24), torch.randn(2)
    view = VIEWS[name](stack[1])
    traced = trace(lambda x: (x.sum() + view,), [x], [stack[1]])
    for row in (torch.randn(24), *stack):
        assert torch.equal(*traced.graph(row, x), x.sum() + VIEWS[name](row))


@by_name(VIEWS)
def test_views_of_the_state_in_a_batch(function):
    weight, x, stack = torch.randn(24), torch.randn(2), torch.randn(3, 24)
    view = function(weight)
    traced = trace(lambda x: (x.sum() + view,), [x], [weight])
    (result,) = vmap(traced.graph, in_dims=(0, None))(stack, x)
    assert torch.equal(result, torch.stack([x.sum() + function(row) for row in stack]))


def test_several_states_and_a_constant():
    first, second, scale = torch.randn(12), torch.randn(3, 4), torch.rand(())
    matrix, transposed, row = first[4:10].view(2, 3), second.t(), second[1]
    buffer = torch.arange(4.0)

    def function(x):
        return ((matrix @ (transposed + x).t() + row * scale) * buffer,)

    x = torch.randn(3)
    traced = trace(function, [x], [second, scale, first])
    a, b, c = np.arange(12.0), np.arange(12.0).reshape(3, 4) ** 2, 0.5
    expected = (a[4:10].reshape(2, 3) @ (b + x.numpy()[:, None]) + b[1] * c) * np.arange(4)
    (result,) = traced.graph(torch.tensor(b).float(), torch.tensor(c), torch.tensor(a).float(), x)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_the_original_state_does_not_matter_later():
    weight, x = torch.ones(3), torch.ones(3)
    traced = trace(lambda x: (x * weight,), [x], [weight])
    weight.fill_(100.0)
    assert torch.equal(*traced.graph(torch.full((3,), 2.0), x), 2 * x)


@pytest.mark.parametrize(
    "split",
    [lambda w: (w, w), lambda w: (w[:4], w[4:]), lambda w: (w[:4], w)],
    ids=["twice", "halves", "part and whole"],
)
def test_states_that_share_a_storage_are_refused(split):
    state = split(torch.arange(8.0))
    with pytest.raises((ValueError, NotImplementedError), match="storage"):
        trace(lambda x: (x + state[0].sum(),), [torch.ones(2)], state)


def test_without_state():
    assert_same(lambda x: 2 * torch.rand(SHAPE) + x, torch.ones(SHAPE))


def test_without_inputs():
    weight = torch.ones(SHAPE)
    assert_same(lambda: weight * torch.rand(SHAPE), state=[weight])


# Gradients


def test_the_gradient_of_least_squares():
    """2 / n Xᵀ (X w + b - y), and the sum of the same residuals."""
    vector = torch.randn(5, dtype=torch.float64)
    weight, bias = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(()))
    weight.data, bias.data = vector[:4], vector[4]

    def differentiate(x, y):
        loss = (x @ weight + bias - y).square().mean()
        return loss.detach(), *torch.autograd.grad(loss, [weight, bias])

    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    traced = trace(differentiate, [x, y], [vector])
    other = torch.randn(5, dtype=torch.float64)
    residual = x @ other[:4] + other[4] - y
    expected = residual.square().mean(), x.t() @ residual / 3, residual.sum() / 3
    for ours, theirs in zip(traced.graph(other, x, y), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not ours.requires_grad


def network(vector):
    """Weights that are views of a vector, one of them transposed, with dropout between."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    net[0].weight.data = vector[:24].view(3, 8).t()
    net[0].bias.data = vector[24:32]
    net[3].weight.data = vector[32:48].view(2, 8)
    net[3].bias.data = vector[48:50]
    return net


def gradients_of(net):
    def differentiate(x):
        loss = net(x + 0.1 * torch.randn_like(x)).pow(4).sum()
        return loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))

    return differentiate


def test_gradients_of_a_network_at_another_state():
    x = torch.randn(6, 3, dtype=torch.float64)
    vector, other = torch.randn(2, 50, dtype=torch.float64).unbind()
    vector, other = vector.clone(), other.clone()
    traced = trace(gradients_of(network(vector)), [x], [vector])
    expected, after = seeded(gradients_of(network(other)), x)
    result, next_number = seeded(lambda: traced.graph(other, x, *traced.draw()))
    assert torch.equal(after, next_number)
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own_inputs", [False, True])
def test_networks_in_a_batch(own_inputs):
    """State, random numbers and perhaps inputs of each seed."""
    vectors, x = torch.randn(4, 50, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    inputs = torch.randn(4, 6, 3, dtype=torch.float64) if own_inputs else x.expand(4, 6, 3)
    vector = vectors[0].clone()
    traced = trace(gradients_of(network(vector)), [x], [vector])
    expected, draws = [], []
    for seed in range(4):
        net = network(vectors[seed].clone())
        expected.append(seeded(gradients_of(net), inputs[seed], seed=seed)[0])
        draws.append(seeded(traced.draw, seed=seed)[0])
    dims = (0, 0 if own_inputs else None, *[0] * len(traced.draws))
    stacked = [torch.stack(draw) for draw in zip(*draws, strict=True)]
    batch = vmap(traced.graph, in_dims=dims)(vectors, inputs if own_inputs else x, *stacked)
    for ours, theirs in zip(batch, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-12, atol=1e-12)


def test_shared_random_numbers_in_a_batch():
    """One dropout mask for all, which is not batched itself."""
    weight, x = torch.randn(7), torch.randn(SHAPE)
    traced = trace(lambda x: (F.dropout(x * weight, 0.5),), [x], [weight])
    weights, draws = torch.randn(3, 7), traced.draw()
    expected = [traced.graph(row, x, *[draw.clone() for draw in draws])[0] for row in weights]
    dims = (0, None, *[None] * len(draws))
    (result,) = vmap(traced.graph, in_dims=dims)(weights, x, *[draw.clone() for draw in draws])
    assert torch.equal(result, torch.stack(expected))


# Writing in place


def test_writes_in_place_inside():
    weight = torch.randn(3)

    def function(x):
        y = x * weight
        y[0].add_(1)
        y.mul_(2)
        out = torch.zeros(2, 3)
        out[1] = y[0] + weight.clone().neg_()
        out[:, :2].copy_(y[:, 1:])
        return (out + y,)

    x, other = torch.randn(2, 3), torch.randn(3)
    traced = trace(function, [x], [weight])
    y = 2 * (x * other + torch.tensor([[1.0], [0.0]]))
    expected = y.clone()
    expected[:, :2] += y[:, 1:]
    expected[1, 2] += y[0, 2] - other[2]
    before = other.clone(), x.clone()
    torch.testing.assert_close(*traced.graph(other, x), expected)
    assert torch.equal(other, before[0])
    assert torch.equal(x, before[1])
    stack = torch.randn(4, 3)
    (batch,) = vmap(traced.graph, in_dims=(0, None))(stack, x)
    torch.testing.assert_close(batch, torch.stack([traced.graph(row, x)[0] for row in stack]))


# What is rewritten for the compiler


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(7,), (5, 7)])
def test_layer_norms_and_their_gradients(shape, affine):
    torch.manual_seed(0)
    norm = nn.LayerNorm(shape, eps=0.1, elementwise_affine=affine, dtype=torch.float64)
    x = torch.randn(3, *SHAPE, dtype=torch.float64, requires_grad=True)
    learned = [nn.init.normal_(parameter) for parameter in norm.parameters()]

    def derive(x):
        y = norm(x)
        return (y.detach(), *torch.autograd.grad(y.pow(3).sum(), [x, *learned]))

    graph = trace(derive, [x], []).graph
    assert "native_layer_norm.default" not in graph.code
    for result, expected in zip(graph(x), derive(x), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_sequences_become_constants():
    def positions(x):
        rows = torch.arange(5).unsqueeze(-1) * 7
        return (x + (rows + torch.arange(0, 14, 2)[:7]).remainder(3), torch.arange(3) * x.sum())

    x = torch.randn(SHAPE)
    graph = trace(positions, [x], []).graph
    assert "arange" not in graph.code
    for inputs in (x, x + 1):
        for result, expected in zip(graph(inputs), positions(inputs), strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("shape", [(), (1,), SHAPE])
def test_what_is_stored_is_the_same(shape):
    x = torch.randn(shape)
    assert torch.equal(stored(x), x)
    assert torch.equal(stored(x * torch.nan).isnan(), torch.ones(shape, dtype=torch.bool))


@pytest.mark.xdist_group("compile")
@pytest.mark.slow
def test_compiled_code_gives_and_writes_what_the_function_does():
    def step(total, x, scale):
        total.add_(x * stored(scale.exp()))
        return [total.square(), x.sum()]

    given = [torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(())]
    code = compile_function(step, [torch.zeros_like(entry) for entry in given])
    ours, theirs = ([entry.clone() for entry in given] for _ in range(2))
    for _ in range(3):
        for result, expected in zip(code(*ours), step(*theirs), strict=True):
            torch.testing.assert_close(result, expected)
        torch.testing.assert_close(ours[0], theirs[0])


@pytest.mark.parametrize("wrong", ["result", "argument"])
def test_code_that_gives_something_else_is_refused(monkeypatch, wrong):
    """As torch 2.13's is for an index_copy into an expanded tensor."""

    def step(total, x):
        total.add_(x)
        return [total.square()]

    def compile_wrongly(graph, examples, **options):
        def code(total, x):
            (result,) = graph(total, x)
            if wrong == "argument":
                total[0] *= 1.01
            else:
                result[0] *= 1.01
            return [result]

        return code

    monkeypatch.setattr(torch._inductor, "standalone_compile", compile_wrongly)
    with pytest.raises(RuntimeError, match="compiled code differs from the function by"):
        compile_function(step, [torch.ones(SHAPE), torch.ones(SHAPE)])


@pytest.fixture(params=[1, 2])
def threads(request):
    """Torch's threads, one and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gradients_of_entries_by_index(threads, dim):
    """For two threads torch 2.13 compiles an index_add that may write outside its tensor."""
    index = torch.tensor([3, 0, 3, 1])
    x = torch.randn(5, 7, 6, dtype=torch.float64)

    def derive(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(x.index_select(dim, index).pow(3).sum(), [x])

    graph = trace(derive, [x], []).graph
    assert ("index_add" in graph.code) == (threads == 1)
    torch.testing.assert_close(graph(x), derive(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(256, 8, 16), (255, 8, 16), (32, 32, 3)])
def test_products_and_their_gradients_on_threads(threads, rows, inner, columns):
    """A linear layer and its weight's gradient, against NumPy in double precision."""
    generator = np.random.default_rng(0)
    x, weight = generator.normal(size=(rows, inner)), generator.normal(size=(columns, inner))
    bias, slope = generator.normal(size=columns), generator.normal(size=(rows, columns))
    arguments = [torch.tensor(each, dtype=torch.float32) for each in (x, weight, bias, slope)]

    def layer(x, weight, bias, slope):
        parameters = [p.detach().requires_grad_() for p in (weight, bias)]
        output = F.linear(x, *parameters)
        return output.detach(), *torch.autograd.grad((output * slope).sum(), parameters)

    graph = trace(layer, arguments, []).graph
    actual = graph(*arguments)
    split = any(node.target is torch.ops.aten.bmm.default for node in graph.graph.nodes)
    assert split  # at least of the output, without its bias
    for ours, expected in zip(
        actual, (x @ weight.T + bias, slope.T @ x, slope.sum(0)), strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-4)
