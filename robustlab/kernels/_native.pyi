def available() -> tuple[str, ...]: ...
def cpu_flags() -> tuple[str, ...]: ...
def compiler() -> str: ...
def binary_conv2d(
    backend: str,
    threads: int,
    x: tuple[int, int],
    weight: tuple[int, int],
    scale: int,
    bias: int,
    y: tuple[int, int],
    sizes: tuple[int, int, int, int, int, int, int, int],
    place: tuple[int, int, int, int, int, int, int],
    padding_value: int,
) -> None: ...
def quant_conv2d(
    backend: str,
    threads: int,
    x: tuple[int, int],
    weight: tuple[int, int],
    scale: int,
    bias: int,
    y: tuple[int, int],
    sizes: tuple[int, int, int, int, int, int, int, int],
    place: tuple[int, int, int, int, int, int, int],
    bits: int,
    scale_x: float,
    zero_point: int,
    bits_x: int,
) -> None: ...
