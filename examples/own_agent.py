"""An agent from parts of one's own: a custom flow, trained on Pendulum.

python examples/own_agent.py [STEPS]
"""

import sys

import normflows
import torch

from maxentflow import agents, envs, flows

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
torch.manual_seed(0)
env = envs.make("Pendulum-v1")
obs_dim, action_dim = 3, 1

flow = flows.EnergyBasedFlow(
    base=flows.StandardNormal(action_dim),
    layers=[
        flows.StateScale(action_dim, obs_dim, bounds=(-5.0, 0.5)),  # counted in V
        flows.AffineCoupling(action_dim, obs_dim, mask="odd"),  # counted in Q
        flows.NormflowsLayer(normflows.flows.AffineConstFlow((action_dim,))),  # linear: in V
        flows.TanhSquash(action_dim),
    ],
    temperature=0.2,
    shift=flows.RewardShift(obs_dim, heads=2),
)
agent = agents.meow(env, flow=flow)
config = agents.TrainerConfig(
    total_steps=steps, warmup_steps=min(1_000, steps // 2), eval_every=steps
)
trainer = agents.Trainer(agent, env, config)
trainer.run()

observation = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # upright, hanging down
with torch.no_grad():
    print(
        "soft value, upright and hanging:", agent.policy.flow.value(observation).amin(-1).tolist()
    )
print("Pendulum-v1:", trainer.evaluate())
