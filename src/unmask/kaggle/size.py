"""The size of a bundle: told before its weights are written, and counted when all is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unmask.config import KaggleConfig, Precision
from unmask.errors import UnmaskError
from unmask.training.model_file import saved_bytes


def check_plan(
    rest: int, models: Mapping[str, list[Path]], wanted: set[str], kaggle: KaggleConfig
) -> None:
    """Insist that a bundle will fit, before any weight is written.

    Args:
        rest: bytes of all files but the weights.
        models: experiment to the trained weights of all its models, in the order of shipping.
        wanted: the experiments to ship.
        kaggle: `max_bytes`, `models` and `precision` are used.

    Raises:
        UnmaskError: it will not; the message says what would.
    """
    limit, precision, most = kaggle.max_bytes, kaggle.precision, kaggle.models

    def planned(names: set[str], precision: Precision, most: int | None) -> int:
        shipped = [path for name in sorted(names) for path in models[name][:most]]
        return rest + sum(saved_bytes(path, precision) for path in shipped)

    total = planned(wanted, precision, most)
    if total <= limit:
        return
    counts = {name: len(models[name][:most]) for name in sorted(wanted)}
    fewer = range(max(counts.values()) - 1, 0, -1)
    fitting = [f"kaggle.models: {n}" for n in fewer if planned(wanted, precision, n) <= limit][:1]
    if precision != "int8" and planned(wanted, "int8", most) <= limit:
        fitting.append("kaggle.precision: int8")
    others = [name for name in models if name not in wanted]
    fitting += [
        f"kaggle.experiment: {name}" for name in others if planned({name}, precision, most) <= limit
    ]
    members = ", ".join(
        f"{count} models of {name} {planned({name}, precision, most) - rest:,}"
        for name, count in counts.items()
    )
    raise UnmaskError(
        f"kaggle.max_bytes: the bundle would have {total:,} bytes, {total - limit:,} too many "
        f"({members}, all else {rest:,}); "
        + (f"what fits: {'; '.join(fitting)}" if fitting else "train a smaller backbone")
    )


def check_size(folder: Path, max_bytes: int) -> int:
    """Return the size of a bundle in bytes.

    Raises:
        UnmaskError: it is over `max_bytes`; the message names the largest files.
    """
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        named = ", ".join(f"{name} {sizes[name]:,}" for name in largest)
        raise UnmaskError(
            f"kaggle.max_bytes: the bundle has {total:,} bytes, {total - max_bytes:,} too many "
            f"({named}); lower kaggle.models, or take a smaller backbone"
        )
    return total
