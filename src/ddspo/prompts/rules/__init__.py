"""Degradation of real prompts by rules: offline, with small word lists, every change named."""
