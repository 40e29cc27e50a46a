import torch

from oodattack.data.photos import SIDES, patch, photos


def test_odd_rows_show_the_orange_flower():
    red, _, blue = photos(40, channels=3, size=16, seed=0).mean(dim=(3, 2)).unbind(1)
    assert (red - blue)[1::2].mean() > 0.1
    assert (red - blue)[::2].mean() < 0.1


def test_grey_is_the_luminance_of_the_same_patches():
    colour, grey = (photos(4, channels=channels, size=16, seed=0) for channels in (3, 1))
    # 0.299 + 0.587 + 0.114 = 1
    expected = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    torch.testing.assert_close(grey[:, 0], expected)


def test_every_patch_shows_something():
    assert photos(50, channels=1, size=16, seed=0).std(dim=(1, 2, 3)).min() > 0.05


def test_patches_come_in_every_size_from_everywhere():
    # on a photograph whose values are row and column numbers, a patch tells where it was cut
    down, right = torch.meshgrid(torch.arange(427) / 1000, torch.arange(640) / 1000, indexing="ij")
    ramp = torch.stack([down, right, down])
    generator = torch.Generator().manual_seed(0)
    cut = torch.stack([patch(ramp, 32, generator) for _ in range(200)])
    step = cut[:, 1, 0, 30] - cut[:, 1, 0, 1]  # 29 of the 32 pixels of a side apart
    side = 1000 * step * 32 / 29
    assert side.min() > SIDES[0] - 1
    assert side.max() < SIDES[1] + 1
    assert side.log().std() > 0.4  # log-uniform over a factor of 6: log 6 / sqrt(12) = 0.52
    assert cut[:, 0].min() < 0.01
    assert cut[:, 0].max() > 0.42
    assert cut[:, 1].min() < 0.01
    assert cut[:, 1].max() > 0.63


def test_shrinking_averages():
    # one-pixel stripes: without antialiasing a patch would show bands of 0 and 1
    stripes = (torch.arange(640) % 2).float().expand(3, 427, 640)
    assert (patch(stripes, 16, torch.Generator().manual_seed(0)) - 0.5).abs().max() < 0.2
