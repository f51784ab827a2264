"""Networks given as a graph: a list of steps over named values, such as one read from an ONNX file."""

from robustlab.models.graph.network import GraphNetwork
from robustlab.models.graph.operators import OPERATORS
from robustlab.models.graph.spec import GraphSpec, LayerSpec, Step, parse_graph

__all__ = ["OPERATORS", "GraphNetwork", "GraphSpec", "LayerSpec", "Step", "parse_graph"]
