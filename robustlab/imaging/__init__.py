"""Differentiable imaging shared by attacks, defences and data sets."""
