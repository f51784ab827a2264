"""Systematic noise: what is between the file and the model, by pipelines through the real libraries, and platforms."""

from robustlab.datasets.systematic.colours import COLOURS, Colour
from robustlab.datasets.systematic.decoders import DECODERS, Decoder
from robustlab.datasets.systematic.images import PipelineImages, inapplicable
from robustlab.datasets.systematic.pipeline import REFERENCE_KEY, Pipeline, develop, parse_pipeline
from robustlab.datasets.systematic.platforms import PLATFORMS, Platform, share
from robustlab.datasets.systematic.protocols import PROTOCOLS, Protocol
from robustlab.datasets.systematic.resizers import RESIZERS, Resizer

__all__ = [
    "COLOURS",
    "DECODERS",
    "PLATFORMS",
    "PROTOCOLS",
    "REFERENCE_KEY",
    "RESIZERS",
    "Colour",
    "Decoder",
    "Pipeline",
    "PipelineImages",
    "Platform",
    "Protocol",
    "Resizer",
    "develop",
    "inapplicable",
    "parse_pipeline",
    "share",
]
