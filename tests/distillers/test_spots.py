"""Where each distiller sits, what it weighs, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from spotkd import DISTILLERS, SpotkdError
from spotkd.distillers import Distiller

from .common import CONSECUTIVE, NARROW, WIDE, Shapes

FIVE: Shapes = ((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256,), (100,))  # resnet8x4
SIX: Shapes = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4), (512,), (100,))  # vgg8
LABELS = torch.arange(40) % 5

MAPS_BUT_THE_STEM = ([1, 2, 3], [1, 2, 3, 4])
LAST_MAP, EMBEDDING, LOGITS = ([3], [4]), ([4], [5]), ([5], [6])
SPOTS = {  # stages in a network of five features and in one of six
    "kd": LOGITS,
    "dkd": LOGITS,
    "dist": LOGITS,
    "fitnet": ([2], [2]),
    "at": MAPS_BUT_THE_STEM,
    "nst": MAPS_BUT_THE_STEM,
    "vid": MAPS_BUT_THE_STEM,
    "kdsvd": MAPS_BUT_THE_STEM,
    "ab": MAPS_BUT_THE_STEM,
    "ofd": MAPS_BUT_THE_STEM,
    "fsp": ([0, 1, 2, 3], [0, 1, 2, 3, 4]),
    "semckd": MAPS_BUT_THE_STEM,
    "reviewkd": ([1, 2, 3, 4], [1, 2, 3, 4, 5]),
    "sp": LAST_MAP,
    "ft": LAST_MAP,
    "rkd": EMBEDDING,
    "pkt": EMBEDDING,
    "cc": EMBEDDING,
    "crd": EMBEDDING,
}
WEIGHTS = {
    "kd": 1,
    "dkd": 1,
    "dist": 1,
    "fitnet": 1,
    "at": 1000,
    "nst": 50,
    "vid": 1,
    "kdsvd": 1,
    "ab": 1,
    "ofd": 1,
    "fsp": 50,
    "reviewkd": 1,
    "semckd": 400,
    "sp": 3000,
    "ft": 200,
    "rkd": 1,
    "pkt": 30000,
    "cc": 0.02,
    "crd": 0.8,
}
SINGLE = [name for name, (stages, _) in SPOTS.items() if len(stages) == 1]
MAPS_ALONE = ["ft", "fsp", "ab", "kdsvd", "reviewkd", "ofd"]


def build(name: str, student: Shapes, teacher: Shapes, spots: tuple[tuple[int, int], ...] | None = None) -> Distiller:
    return DISTILLERS[name](student, teacher, spots=spots, labels=LABELS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_the_papers(name: str) -> None:
    assert build(name, FIVE, FIVE).default_weight == WEIGHTS[name]


@pytest.mark.parametrize("name", SPOTS)
def test_spots_of_the_papers_networks(name: str) -> None:
    for shapes, stages in zip((FIVE, SIX), SPOTS[name], strict=True):
        assert build(name, shapes, shapes).spots == tuple((stage, stage) for stage in stages)


@pytest.mark.parametrize("longer", ["student", "teacher"])
@pytest.mark.parametrize("name", DISTILLERS)
def test_networks_of_different_lengths_meet_kind_by_kind(name: str, longer: str) -> None:
    """Maps with maps from the shallow end, the embedding with the embedding, the logits with the logits."""
    six: Shapes = (*FIVE[:4], (256, 4, 4), *FIVE[4:])  # as wide as the other at each map, for FSP and KDSVD
    wanted = [(s, t) for s, t in zip(*SPOTS[name], strict=False)]
    if name == "reviewkd":
        wanted[-1] = (4, 5)  # both embeddings; the fourth map of the longer network has no partner
    if longer == "student":
        wanted = [(t, s) for s, t in wanted]
    shapes = (FIVE, six) if longer == "teacher" else (six, FIVE)
    assert list(build(name, *shapes).spots) == wanted


@pytest.mark.parametrize(
    ("name", "spots"),
    [
        ("at", ((1, 3),)),
        ("at", ((0, 0), (2, 3))),
        ("fitnet", ((3, 1),)),
        ("sp", ((1, 3),)),
        ("sp", ((4, 3),)),  # a vector and a map: only the batch must agree
        ("rkd", ((5, 4),)),
        ("reviewkd", ((2, 2), (4, 4))),
        ("fsp", ((0, 0), (2, 2))),
        ("kdsvd", ((2, 2), (3, 3))),
    ],
)
def test_spots_can_be_given(name: str, spots: tuple[tuple[int, int], ...]) -> None:
    assert build(name, FIVE, FIVE, spots).spots == spots


@pytest.mark.parametrize("name", SINGLE)
def test_several_spots_for_a_distiller_of_one(name: str) -> None:
    stage = SPOTS[name][0][0]
    with pytest.raises(SpotkdError, match=r"distils at one spot, and 2 are given"):
        build(name, FIVE, FIVE, ((stage, stage), (stage, stage)))


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_no_spot(name: str) -> None:
    with pytest.raises(SpotkdError, match=r"finds no spot"):
        build(name, FIVE, FIVE, ())


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "vid", "kdsvd", "ab", "ofd", "fsp", "sp", "ft"])
def test_networks_without_maps(name: str) -> None:
    with pytest.raises(SpotkdError, match=r"finds no spot"):
        build(name, ((8,), (5,)), FIVE)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "rkd", "pkt", "cc", "crd"])
def test_a_map_for_a_distiller_of_vectors(name: str) -> None:
    with pytest.raises(SpotkdError, match=r"distils vectors \(D,\), and stage 3 of the teacher puts out .*maps"):
        build(name, FIVE, FIVE, ((SPOTS[name][0][0], 3),))


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "vid", "kdsvd", "ab", "ofd", "fsp", "ft"])
def test_a_vector_for_a_distiller_of_maps(name: str) -> None:
    several = ((2, 2), (4, 3)) if name in CONSECUTIVE else ((4, 3),)
    with pytest.raises(SpotkdError, match=r"stage 4 of the student puts out vectors"):
        build(name, FIVE, FIVE, several)


@pytest.mark.parametrize("name", MAPS_ALONE)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_tokens_for_a_distiller_of_maps_alone(name: str, side: str) -> None:
    tokens: Shapes = (*[(65, 256)] * 4, (256,), (100,))
    shapes = (tokens, FIVE) if side == "student" else (FIVE, tokens)
    with pytest.raises(SpotkdError, match=rf"stage \d of the {side} puts out tokens \(N, C\) of shape \(65, 256\)"):
        build(name, *shapes)


@pytest.mark.parametrize("name", CONSECUTIVE)
def test_terms_between_two_maps_need_two_of_one_width(name: str) -> None:
    with pytest.raises(SpotkdError, match=r"stage 2 of the student has 6 and stage 2 of the teacher 7"):
        build(name, NARROW, WIDE, ((0, 0), (2, 2)))
    with pytest.raises(SpotkdError, match=r"compares consecutive maps and finds only 1"):
        build(name, FIVE, FIVE, ((2, 2),))
    # Sizes may differ, channels may not.
    assert build(name, ((4, 8, 8), *FIVE[2:]), ((4, 4, 4), *FIVE[2:])).spots
