"""Names of the agents that come with the package, to know without importing any."""

__all__ = ["BUILT_IN"]

BUILT_IN = ("meow", "sac", "td3", "soft-q", "ppo")
