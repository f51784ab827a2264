"""The graph pass: what follows packed layers joins them, and activations stay packed in between."""

from robustlab.deploy.graph.optimized import OptimizedModel, optimize, unoptimized
from robustlab.deploy.graph.plan import FusedSegment, FusionReport

__all__ = ["FusedSegment", "FusionReport", "OptimizedModel", "optimize", "unoptimized"]
