"""Randomness that depends on the place in the run alone."""

import torch

from pipelines.train.draws import Draws, generator


def test_equal_places_draw_equal_numbers() -> None:
    here, there = Draws(7, 0, 31, 1, 2), Draws(7, 0, 31, 1, 2)
    assert torch.equal(here.normal("noise", (4, 3)), there.normal("noise", (4, 3)))
    assert here.picks("subject", 4, 9) == there.picks("subject", 4, 9)
    assert torch.equal(here.timesteps("levels", 4, 1000), there.timesteps("levels", 4, 1000))


def test_every_place_and_purpose_draws_its_own() -> None:
    places = [Draws(7, 0, 31), Draws(8, 0, 31), Draws(7, 1, 31), Draws(7, 0, 32)]
    drawn = [place.normal("noise", (8,)) for place in places]
    drawn += [Draws(7, 0, 31, 1, 2).normal("noise", (8,)), places[0].normal("posterior", (8,))]
    assert len({tuple(one.tolist()) for one in drawn}) == len(drawn)


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    Draws(1, 0, 0).normal("noise", (4,))
    generator(1, "init").manual_seed(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_picture_comes_once_before_any_comes_again() -> None:
    picked = [i for step in range(9) for i in Draws(3, 0, step).picks("subject", 4, 12)]
    for start in range(0, 36, 12):
        assert sorted(picked[start : start + 12]) == list(range(12))
    assert picked[:12] != picked[12:24]


def test_accumulated_batches_continue_the_row() -> None:
    whole = [i for step in range(3) for i in Draws(3, 0, step).picks("subject", 4, 5)]
    halves = [
        i
        for step in range(3)
        for part in (0, 1)
        for i in Draws(3, 0, step, part, 2).picks("subject", 2, 5)
    ]
    assert halves == whole


def test_timesteps_hit_every_stratum_of_a_step_once() -> None:
    for step in range(20):
        drawn = torch.cat([Draws(5, 0, step, part, 2).timesteps("t", 4, 1000) for part in (0, 1)])
        assert sorted((drawn // 125).tolist()) == list(range(8))


def test_each_timestep_is_uniform_for_itself() -> None:
    first = torch.tensor([Draws(5, 0, s).timesteps("t", 4, 1000)[0].item() for s in range(2000)])
    share = torch.histc(first.float(), bins=10, min=0, max=1000) / 2000
    assert (share - 0.1).abs().max() < 0.03


def test_processes_share_every_row_of_a_batch_once() -> None:
    for ranks, rows in ((1, 4), (2, 4), (4, 12)):
        shares = [Draws(0, 0, 5, rank=rank, ranks=ranks).share(rows) for rank in range(ranks)]
        assert [row for share in shares for row in share] == list(range(rows))
        assert {len(share) for share in shares} == {rows // ranks}


def test_what_is_drawn_does_not_depend_on_who_draws() -> None:
    first, second = (Draws(7, 0, 31, rank=rank, ranks=2) for rank in range(2))
    assert torch.equal(first.normal("noise", (4, 3)), second.normal("noise", (4, 3)))
    assert first.picks("subject", 4, 9) == Draws(7, 0, 31).picks("subject", 4, 9)
