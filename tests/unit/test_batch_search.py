"""The search for a micro-batch's size: never beyond the memory, never many trials."""

from hypothesis import given
from hypothesis import strategies as st

from sftplay_ui.engine.memory.batch_search import MOST_TRIALS, SHARE, find_size

GB = 10**9


class Device:
    """Needs `base` bytes and `each` for an example; a trial beyond the capacity runs out."""

    def __init__(self, capacity: int, base: int, each: int) -> None:
        self.capacity, self.base, self.each = capacity, base, each
        self.tried: list[int] = []

    def need(self, size: int) -> int:
        return self.base + self.each * size

    def measure(self, size: int) -> int | None:
        self.tried.append(size)
        return self.need(size) if self.need(size) <= self.capacity else None


devices = st.builds(
    Device,
    capacity=st.integers(1, 80 * GB),
    base=st.integers(0, 40 * GB),
    each=st.integers(1, 20 * GB),
)


@given(devices, st.integers(1, 4096), st.integers(1, 4096))
def test_the_size_found_was_tried_fits_and_divides_the_step(device, share, first):
    found = find_size(share, first, device.capacity, device.measure)
    assert len(device.tried) <= MOST_TRIALS
    assert len(set(device.tried)) == len(device.tried)
    if found.size:
        assert share % found.size == 0
        assert found.size in device.tried
        assert device.need(found.size) <= SHARE * device.capacity


@given(devices, st.integers(1, 4096), st.integers(1, 4096))
def test_nothing_is_found_only_where_one_example_is_too_much(device, share, first):
    found = find_size(share, first, device.capacity, device.measure)
    assert bool(found.size) == (device.need(1) <= int(SHARE * device.capacity))


@given(devices, st.sampled_from([1, 2, 8, 16, 32, 64, 256]), st.integers(1, 64))
def test_common_steps_are_cut_as_large_as_they_can_be(device, share, first):
    found = find_size(share, first, device.capacity, device.measure)
    best = max(
        (n for n in range(1, share + 1) if share % n == 0 and device.need(n) <= found.budget),
        default=0,
    )
    assert best / 2 <= found.size <= best


def test_a_line_through_two_trials_saves_walking_up():
    device = Device(10 * GB, GB, 10 * 1000**2)
    assert find_size(512, 1, device.capacity, device.measure).size == 512
    assert device.tried == [1, 2, 512]


def test_what_was_tried_is_told():
    device = Device(2 * GB, GB // 2, GB)
    found = find_size(4, 2, device.capacity, device.measure)
    assert found.describe() == (
        "tried on the device with 1.8 GB to use: 1 took 1.50 GB, 2 ran out of memory"
    )
