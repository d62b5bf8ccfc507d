"""Proof on the operator's own machine that the promises hold when things break."""
