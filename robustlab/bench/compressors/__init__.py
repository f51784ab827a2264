"""Every compression algorithm at every scheme on one model: accuracy, class, bytes and latency of what is deployed."""

from robustlab.bench.compressors.cells import (
    DEFAULT_SCHEMES,
    POST_TRAINING,
    STATES,
    Cell,
    Latency,
    Quality,
    Scheme,
    parse_scheme,
)
from robustlab.bench.compressors.run import LATENCIES, bench_compressors
from robustlab.bench.compressors.store import CompressorBench, Settings, read
from robustlab.bench.compressors.table import (
    best_after_training,
    compressor_markdown,
    compressor_table,
    points_text,
    state_text,
)

__all__ = [
    "DEFAULT_SCHEMES",
    "LATENCIES",
    "POST_TRAINING",
    "STATES",
    "Cell",
    "CompressorBench",
    "Latency",
    "Quality",
    "Scheme",
    "Settings",
    "bench_compressors",
    "best_after_training",
    "compressor_markdown",
    "compressor_table",
    "parse_scheme",
    "points_text",
    "read",
    "state_text",
]
