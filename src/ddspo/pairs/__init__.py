"""Winning and losing pictures of a prompt and its degraded prompt: the plan, the making, the store."""
