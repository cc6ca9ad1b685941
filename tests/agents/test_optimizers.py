"""AdamW with a weight decay that fades, beside torch's with the decay set by hand."""

import copy

import pytest
import torch

from maxentflow.agents.parts.optimizers import FadingAdamW


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("fade", [None, 1, 3])
def test_the_decay_falls_as_one_over_the_root_of_the_updates(fade, fused):
    torch.manual_seed(0)
    weights, bias = (torch.nn.Parameter(torch.randn(size)) for size in (4, 2))
    plain_weights, plain_bias = copy.deepcopy((weights, bias))
    groups = [{"params": [weights], "weight_decay": 0.5}, {"params": [bias]}]
    optimizer = FadingAdamW(groups, fade=fade, lr=0.1, weight_decay=0.0, fused=fused)
    plain = torch.optim.AdamW(
        [{"params": [plain_weights]}, {"params": [plain_bias], "weight_decay": 0.0}],
        lr=0.1,
        fused=fused,
    )
    for count in range(1, 8):
        plain.param_groups[0]["weight_decay"] = (
            0.5 if fade is None or count <= fade else 0.5 * (fade / count) ** 0.5
        )
        for one, other in ((weights, plain_weights), (bias, plain_bias)):
            one.grad = other.grad = torch.randn_like(one)
        optimizer.step()
        plain.step()
        assert torch.equal(weights, plain_weights)
        assert torch.equal(bias, plain_bias)
        if count == 4:  # as a resumed run does
            state = optimizer.state_dict()
            optimizer = FadingAdamW(groups, fade=5, lr=0.1, weight_decay=0.0, fused=fused)
            optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_a_fade_below_one_is_refused():
    with pytest.raises(ValueError, match="fade must be at least 1, got 0"):
        FadingAdamW([torch.nn.Parameter(torch.ones(1))], fade=0)
