"""Verbs beside the road from prompts to report: comparisons and tools for policies, pairs and measurements.

A verb is a function with `@app.command()` and `@plainly`; it imports what it needs inside, so that --help stays fast.
"""

from __future__ import annotations
