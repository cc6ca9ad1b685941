"""An energy-based model as a TensorDict policy."""

from __future__ import annotations

from typing import Any, Protocol

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor

__all__ = ["ActingModel", "FlowPolicy"]

_DETERMINISTIC = (InteractionType.DETERMINISTIC, InteractionType.MODE, InteractionType.MEAN)


class ActingModel(Protocol):
    """What :class:`FlowPolicy` asks of a model, an :class:`torch.nn.Module`."""

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions, and their log-probabilities of shape ``(*batch,)``."""
        ...

    def mode(self, observation: Tensor) -> Tensor:
        """The deterministic action."""
        ...

    def log_prob(self, action: Tensor, observation: Tensor) -> Tensor:
        """Log-probabilities of actions, shape ``(*batch,)``."""
        ...

    def eval(self) -> Any:
        """Set the evaluation mode, as a module has it."""
        ...


class FlowPolicy(TensorDictModuleBase):
    """Reads an observation, writes an action and its log-probability.

    Acts with an :class:`~maxentflow.flows.EnergyBasedFlow`, a
    :class:`~maxentflow.flows.CategoricalEnergy`, or any module that is an :class:`ActingModel`.
    Obeys the exploration type of TorchRL (tensordict's interaction type): RANDOM, or none set,
    samples; DETERMINISTIC, MODE and MEAN take the model's ``mode``, with its log-probability.
    Acting never drops units: the policy holds its model in evaluation mode, whatever mode the
    policy itself is put in.

    With a ``raw_action_key``, samples of a flow with a squash bring the action before the squash
    too. :class:`~maxentflow.objectives.SoftBellmanLoss` reads it in place of the action, which in
    single precision does not tell it near the ends of its bounds.

    Args:
        flow: the model to act with.
        observation_key: entry to read, shape ``(*batch, obs_dim)``.
        action_key: entry to write, shape ``(*batch, action_dim)``, or ``(*batch,)`` for a
            categorical model.
        log_prob_key: entry to write, shape ``(*batch,)``.
        raw_action_key: entry to write the action before the squash to; ``None`` to leave it out.

    Raises:
        ValueError: an observation of another size (when called).

    Example:
        >>> policy = FlowPolicy(build("additive", 2, 3, temperature=0.25))
        >>> data = policy(TensorDict(observation=torch.zeros(5, 3), batch_size=[5]))
        >>> data["action"].shape, data["action_log_prob"].shape
        (torch.Size([5, 2]), torch.Size([5]))
        >>> policy = FlowPolicy(CategoricalEnergy(4, 3, temperature=0.25))
        >>> policy(TensorDict(observation=torch.zeros(5, 3), batch_size=[5]))["action"].shape
        torch.Size([5])
    """

    def __init__(
        self,
        flow: ActingModel,
        *,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        log_prob_key: NestedKey = "action_log_prob",
        raw_action_key: NestedKey | None = None,
    ) -> None:
        super().__init__()
        self.flow: Any = flow.eval()
        self.in_keys = [observation_key]
        self.out_keys = [action_key, log_prob_key]
        self.raw_action_key = raw_action_key

    def train(self, mode: bool = True) -> FlowPolicy:
        super().train(mode)
        self.flow.eval()
        return self

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        observation = tensordict.get(self.in_keys[0])
        if interaction_type() in _DETERMINISTIC:
            action = self.flow.mode(observation)
            log_prob = self.flow.log_prob(action, observation)
        elif self.raw_action_key is not None:
            action, log_prob, raw_action = self.flow.sample_raw(observation)
            tensordict.set(self.raw_action_key, raw_action)
        else:
            action, log_prob = self.flow.sample(observation)
        action_key, log_prob_key = self.out_keys
        return tensordict.set(action_key, action).set(log_prob_key, log_prob)
