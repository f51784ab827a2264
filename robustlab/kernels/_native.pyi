def available() -> tuple[str, ...]: ...
def cpu_flags() -> tuple[str, ...]: ...
def compiler() -> str: ...
def conv2d(
    backend: str,
    threads: int,
    x: tuple[int, int],
    weight: tuple[int, int],
    scale: int,
    bias: int,
    y: tuple[int, int],
    sizes: tuple[int, int, int, int],
    form: tuple[int, int, int, int, int, int, int, int, int],
    geometry: tuple[int, int, int, int, int, int, int, int],
    scale_x: float,
    doubled_zero_x: int,
) -> None: ...
