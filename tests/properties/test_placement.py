"""Placement of cells: no GPU exceeds its share, and no cell waits for a free place."""

from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlbench.base.errors import BadInput
from rlbench.launching.local import Queue, check_settings
from rlbench.launching.placement import VISIBLE, Places, choose_gpus, environment_of, list_gpus, parse_list, visible


@dataclass(eq=False)
class Waiting:
    """A cell that needs this many GPUs."""

    gpus: int


def could_run(count: int, held: list[tuple[str, ...]], gpus: tuple[str, ...], per_gpu: int) -> bool:
    """Try every set of GPUs: a one-GPU cell may share a GPU, a multi-GPU cell needs unused ones."""

    def room(gpu: str) -> bool:
        sharing = [chosen for chosen in held if gpu in chosen]
        if count > 1:
            return not sharing
        return len(sharing) < per_gpu and all(len(chosen) == 1 for chosen in sharing)

    return any(all(room(gpu) for gpu in some) for some in combinations(gpus, count))


@given(
    n_gpus=st.integers(1, 5),
    per_gpu=st.integers(1, 3),
    needs=st.lists(st.integers(1, 5), max_size=20),
    ends=st.lists(st.integers(0, 1000), min_size=20, max_size=20),
)
def test_every_cell_runs_within_its_share_and_none_waits_for_free_gpus(n_gpus, per_gpu, needs, ends):
    gpus = tuple(map(str, range(n_gpus)))
    cells = [Waiting(min(need, n_gpus)) for need in needs]
    queue, places = Queue(cells), Places(gpus, per_gpu)
    running: list[tuple[Waiting, tuple[str, ...]]] = []
    ran = []
    while running or not queue.over():
        while (cell := queue.next_cell(lambda cell: places.has_room(cell.gpus))) is not None:
            running.append((cell, places.take(cell.gpus)))
        held = [chosen for _, chosen in running]
        assert not any(could_run(cell.gpus, held, gpus, per_gpu) for cell in queue.waiting)
        for cell, chosen in running:
            assert len(set(chosen)) == len(chosen) == cell.gpus and set(chosen) <= set(gpus)
        for gpu in gpus:
            sharing = [chosen for chosen in held if gpu in chosen]
            assert len(sharing) <= per_gpu and (len(sharing) < 2 or all(len(chosen) == 1 for chosen in sharing))
        ended, chosen = running.pop(ends[len(ran)] % len(running))
        places.give_back(chosen)
        ran.append(ended)
    assert sorted(map(id, ran)) == sorted(map(id, cells))
    assert set(places.taken.values()) <= {0}


@given(n_gpus=st.integers(1, 6), per_gpu=st.integers(1, 3), count=st.integers(1, 6))
def test_at_once_is_what_fits(n_gpus, per_gpu, count):
    places = Places(tuple(map(str, range(n_gpus))), per_gpu)
    expected = places.at_once(count)
    taken = 0
    while places.has_room(count):
        places.take(count)
        taken += 1
    assert taken == expected


def test_cells_go_to_the_emptiest_gpu():
    places = Places(("a", "b"), 2)
    assert [places.take(1) for _ in range(4)] == [("a",), ("b",), ("a",), ("b",)]


LISTED = """\
GPU 0: NVIDIA H200 (UUID: GPU-11111111-2222-3333-4444-555555555555)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 10: NVIDIA H200 (UUID: GPU-99999999-2222-3333-4444-555555555555)
"""


def test_gpus_of_nvidia_smi():
    instances = ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb")
    assert parse_list(LISTED) == ("0", *instances, "10")
    assert parse_list("No devices found.\n") == ()


def test_a_machine_without_nvidia_smi_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == ()


def test_what_cuda_visible_devices_leaves():
    assert visible({}) is None
    assert visible({VISIBLE: "3, GPU-1234"}) == ("3", "GPU-1234")
    assert visible({VISIBLE: ""}) == visible({VISIBLE: "-1"}) == ()
    assert visible({VISIBLE: "2,-1,3"}) == ("2",)


def test_gpus_are_counted_among_those_that_are_left():
    assert choose_gpus("auto", None, ("0", "1")) == ("0", "1")
    assert choose_gpus("auto", (), ("0", "1")) == ()
    assert choose_gpus([1, 0], ("4", "7"), ()) == ("7", "4")
    assert choose_gpus([0, 5], None, ()) == ("0", "5")
    with pytest.raises(BadInput, match="contains 2, but CUDA_VISIBLE_DEVICES allows 2"):
        choose_gpus([0, 2], ("4", "7"), ())
    with pytest.raises(BadInput, match="lists a GPU twice"):
        choose_gpus([0, 0], None, ())


def test_the_environment_says_nothing_where_there_is_no_gpu():
    assert environment_of(()) == {}
    assert environment_of(("4", "7"))[VISIBLE] == "4,7"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((0, "auto", 1, None), "hydra.launcher.jobs = 0"),
        ((1, "all", 1, None), "hydra.launcher.gpus = all"),
        ((1, ["a"], 1, None), "hydra.launcher.gpus = ['a']"),
        ((1, "auto", 0, None), "hydra.launcher.cells_per_gpu = 0"),
        ((1, "auto", 2, 0.6), "hydra.launcher.gpu_share = 0.6 must lie in (0, 1/2]"),
        ((1, "auto", 1, 0), "hydra.launcher.gpu_share = 0"),
    ],
)
def test_bad_settings_of_the_launcher_are_named(settings, said):
    (problem,) = check_settings(*settings)
    assert said in problem


def test_good_settings_of_the_launcher_pass():
    assert not check_settings("auto", "auto", 1, None) + check_settings(3, [0, 2], 4, 0.25)
