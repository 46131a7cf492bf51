"""The edge cases of docs/edge-cases.md: a short test each.

Longer tests of the same stand beside the code that they are about.
"""
