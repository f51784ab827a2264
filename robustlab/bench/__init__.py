"""How fast this machine is, how close to it the kernels come, and how far other libraries."""

from robustlab.bench.run import KernelBench, bench_kernels
from robustlab.bench.table import kernel_table
from robustlab.bench.tasks import Failure, Figure

__all__ = ["Failure", "Figure", "KernelBench", "bench_kernels", "kernel_table"]
