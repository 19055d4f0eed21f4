"""A world small enough to know everything about: eight modes in the plane, one per condition, and a mixed-up reference.

python -m examples.mixture --help
"""
