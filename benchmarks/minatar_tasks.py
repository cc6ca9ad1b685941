"""The games of MinAtar (Young and Tian 2019, arXiv:1903.03176) as tasks of gymnasium.

    maxentflow train dqn --env minatar_tasks:MinAtar/Breakout-v1

with this folder on PYTHONPATH. Actions that a game does not use are left out, as in its v1.
"""

from minatar.gym import register_envs

register_envs()
