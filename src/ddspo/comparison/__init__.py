"""Objectives side by side: a matrix of methods, strengths and seeds over one set of pairs and one base."""
