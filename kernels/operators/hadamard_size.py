"""Say how many Walsh-Hadamard coefficients a ratio keeps; no torch, so that planning needs none."""


def kept_count(block: int, ratio: float) -> int:
    """Return how many coefficients of a block of block x block px a ratio keeps.

    Raises ValueError for a ratio outside (0, 1], one that keeps nothing, or a block that is no
    power of two.
    """
    power_of_two = block & (block - 1) == 0
    if block < 2 or not power_of_two:
        raise ValueError(f"block of {block} px is no power of two; choose 8, 16, 32 or 64")
    if not 0 < ratio <= 1:
        raise ValueError(
            f"ratio {ratio:g} is outside (0, 1]; "
            "give the kept share of the coefficients, for example 0.25"
        )
    pixels = block * block
    kept = round(ratio * pixels)
    if kept < 1:
        least = 1 / block**2
        raise ValueError(
            f"ratio {ratio:g} keeps no coefficient of {pixels}; choose at least {least:.2g}"
        )
    return kept
