"""Deployed models: packed layers, programs of them, one file per model, and the surrogate gradient of attacks."""

from robustlab.deploy.deploying import deploy, simulated_twin
from robustlab.deploy.file import ModelFile, read_model_file, save
from robustlab.deploy.foreign import CallableModel, ForeignModel, Preprocessing, from_torch
from robustlab.deploy.graph import FusedSegment, FusionReport, OptimizedModel, optimize, unoptimized
from robustlab.deploy.inspection import (
    LayerCost,
    StoredBytes,
    class_names,
    fingerprint,
    gradient_kind,
    input_size,
    is_compressed,
    layer_costs,
    model_name,
    scheme,
    stored_bytes,
    stored_parts,
)
from robustlab.deploy.loading import load
from robustlab.deploy.packed import PackedLayer
from robustlab.deploy.surrogate import StraightThrough, Surrogate, set_surrogate

__all__ = [
    "CallableModel",
    "ForeignModel",
    "FusedSegment",
    "FusionReport",
    "LayerCost",
    "ModelFile",
    "OptimizedModel",
    "PackedLayer",
    "Preprocessing",
    "StoredBytes",
    "StraightThrough",
    "Surrogate",
    "class_names",
    "deploy",
    "fingerprint",
    "from_torch",
    "gradient_kind",
    "input_size",
    "is_compressed",
    "layer_costs",
    "load",
    "model_name",
    "optimize",
    "read_model_file",
    "save",
    "scheme",
    "set_surrogate",
    "simulated_twin",
    "stored_bytes",
    "stored_parts",
    "unoptimized",
]
