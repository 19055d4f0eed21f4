"""Objectives: small pure functions of predictions and targets, one per file, losses unreduced [B]."""
