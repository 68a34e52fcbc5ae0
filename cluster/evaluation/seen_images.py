"""Whether a prior was trained on an image that it is to be tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import PlanError


def refuse_seen(ref: str, paths: Sequence[Path]) -> str:
    """Raise PlanError where a prior was trained or validated on one of the images; return what is
    known of that.

    An image is recognised by its file, and by pixels that it shares with a training image
    (kernels.training.near_duplicates).
    """
    from cluster.training.training_images import image_hashes
    from kernels.denoiser_info import BUILTIN_WEIGHTS, split_ref
    from kernels.denoisers.prior_metadata import read_metadata, read_record
    from kernels.training.near_duplicates import from_text, share_pixels
    from orchestrator.planning.fingerprint import content_hash
    from storage.readers.reader_registry import open_image

    try:
        scheme, place = split_ref(ref)
        if scheme not in ("builtin", "prior"):
            return (
                "its training images are not known here: overlap with the test images was not "
                "checked"
            )
        metadata = read_metadata(place or BUILTIN_WEIGHTS)
    except ValueError as err:
        raise PlanError(str(err)) from None
    seen = read_record(metadata, "seen")
    if not seen:
        return f"trained on {metadata.get('trained_on', 'what its file does not say')}"

    names_by_content = {image["content"]: image["name"] for image in seen["images"]}
    hashes = from_text(seen["landmarks"])
    for path in paths:
        content = content_hash(path)
        if content in names_by_content:
            raise PlanError(
                f"{path} is {names_by_content[content]}, on which {ref} was trained; test on other "
                "images"
            )
        if share_pixels(hashes, image_hashes(open_image(path))):
            raise PlanError(
                f"{path} shares pixels with an image on which {ref} was trained; test on other "
                "images"
            )
    return (
        f"trained on {len(names_by_content)} images, none of which shares a file or pixels with "
        "the test images"
    )
