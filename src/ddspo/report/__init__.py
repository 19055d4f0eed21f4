"""Run folder → one self-contained HTML page and summary.json. Reads files only; knows no models and needs no torch."""

from __future__ import annotations

from .build import build_report

__all__ = ["build_report"]
