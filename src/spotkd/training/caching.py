"""Whether and how the teacher's outputs are cached, from the options."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from ..data import Dataset, ImageSet, LazySet
from ..errors import SpotkdError
from ..method import SpotKD
from ..options import DistillOptions
from ..runs.checkpoint import fingerprint
from ..runtime.device import Device
from .teacher_files import TeacherFiles


def cache_teacher(method: SpotKD, data: Dataset, options: DistillOptions, device: Device) -> None:
    """Make room for the teacher's outputs, where that is asked for, and tell how much they take.

    Raises:
        SpotkdError: they take more than is allowed or than the disk has room for; the teacher sees other images in
            every epoch; the folder holds other outputs.
    """
    chosen, limit = options.cache, options.cache_teacher
    if not limit:
        for name, value in asdict(chosen).items():
            if value:
                raise SpotkdError(f"cache.{name} has no effect: --cache_teacher says how many GiB may be taken")
        return
    _check_images(data, options)
    size = 2 if device.precision == "bf16-mixed" else 4
    crops = min(chosen.crops, int(options.epochs)) or 1  # epochs are chosen by now
    files = None
    if chosen.folder is not None:
        files = TeacherFiles(chosen.folder, _facts(method, data, options, device), device)
    method.cache_teacher(len(data.train), size, limit, crops=crops, top=chosen.top, store=files)
    assert method.teacher_cache is not None
    if files is not None:
        files.check_room(method.teacher_cache.gib)
    if not options.quiet:
        where = "" if files is None else f" in {files.folder}"
        several = f", {crops} crops of {method.teacher_cache.gib / crops:.3g}" * (crops > 1)
        size_told = f"its outputs take {method.teacher_cache.gib:.3g} GiB"
        print(f"teacher {options.teacher.name}: {size_told}{where}{several}")  # noqa: T201


def _check_images(data: Dataset, options: DistillOptions) -> None:
    """The teacher must see the same images again."""
    if data.augment and not options.cache.crops:
        raise SpotkdError(
            "cache_teacher: the teacher sees other images in every epoch; set data.augment to false, say in how many "
            "augmentations each is seen (--cache.crops 8), or leave it out"
        )
    if not data.augment and (options.cache.crops or options.cache.seed is not None):
        name = "crops" if options.cache.crops else "seed"
        raise SpotkdError(f"cache.{name} has no effect: data.augment is false; leave one of them out")
    if options.cache.crops and not isinstance(data.train, ImageSet | LazySet):
        kind = type(data.train).__name__
        raise SpotkdError(f"cache.crops: {kind} of {data.name} may augment images in its own way; leave it out")
    if options.mixup or options.cutmix:
        raise SpotkdError(
            "cache_teacher: mixed images are other ones in every epoch; leave it out, or mixup and cutmix"
        )
    if data.train.labels is None:
        raise SpotkdError(f"cache_teacher: the images of {data.name} stream by and cannot be told apart; leave it out")


def _facts(method: SpotKD, data: Dataset, options: DistillOptions, device: Device) -> dict[str, str]:
    """All that the teacher's outputs depend on, by the words that name it in a message."""
    assert data.train.labels is not None
    pixels = data.train.fingerprint() or f"{data.name}, whose pixels have no checksum"
    view = data.teacher_view
    seen = {} if view is None else {key: x for key, x in vars(view).items() if x is not None}
    facts = {
        "teacher's weights": fingerprint(method.teacher.state_dict()),
        "training images": _checksum(f"{pixels} {fingerprint({'labels': data.train.labels})}"),
        "normalisation of images": f"{data.mean} {data.std} {data.image_shape}",
        "hazards": fingerprint(seen),
        "precision": device.precision,
        "augmentation": "none",
    }
    if options.cache.crops:
        seed = options.seed if options.cache.seed is None else options.cache.seed
        facts["augmentation"] = f"{data.padding} pixels, {data.flip}, {data.augmentation}"
        facts["cache.seed"] = str(seed)
        if isinstance(data.train, ImageSet):  # their crops are drawn batch by batch
            facts["batch_size"] = str(options.batch_size)
    return facts


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
