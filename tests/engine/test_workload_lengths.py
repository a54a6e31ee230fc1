"""Lengths, predictions and limits have the distributions they name, and share their random numbers."""

import numpy as np
import pytest

import engine
from engine import workload
from engine.workload import lengths, predictions

N = 100_000


def streams(seed=0):
    return workload.streams(seed, 4)


def test_lognormal_has_its_median_and_spread():
    drawn = lengths.lognormal(1000, 0.7, N, streams()[0])
    # the median of N draws of spread sigma has a relative error of about 1.25 sigma / sqrt(N) = 0.3 %
    assert np.median(drawn) == pytest.approx(1000, rel=0.012)
    assert np.log(drawn).std() == pytest.approx(0.7, rel=0.012)


def test_lognormal_is_clipped():
    drawn = lengths.lognormal(1000, 2.0, N, streams()[0], 50, 5000)
    assert (drawn.min(), drawn.max()) == (50, 5000)


def test_another_spread_scales_the_same_draws():
    narrow, wide = (np.log(lengths.lognormal(1e4, s, 1000, streams()[0], high=2**30) / 1e4) for s in (0.5, 1.0))
    assert wide == pytest.approx(2 * narrow, abs=0.01)


@pytest.mark.parametrize("name", lengths.SHAPES)
def test_presets_have_their_medians(name):
    prompt, output = lengths.shaped(name, N, *streams()[:2])
    for drawn, (median, sigma) in zip((prompt, output), lengths.SHAPES[name], strict=True):
        assert np.median(drawn) == pytest.approx(median, rel=6 * 1.25 * sigma / np.sqrt(N), abs=0.5)
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 0.02


def test_presets_follow_the_catalogue():
    medians = {name: (shape.prompt[0], shape.output[0]) for name, shape in lengths.SHAPES.items()}
    assert medians["chat"] == (200, 200)
    assert medians["summarise"] == (8000, 200)
    assert medians["reasoning"] == (1000, 5000)


def test_code_preset_is_near_the_code_trace():
    prompt, output = lengths.empirical("azure_code", N, *streams()[:3])
    shape = lengths.SHAPES["code"]
    for drawn, (median, sigma) in zip((prompt, output), shape, strict=True):
        assert np.median(drawn) == pytest.approx(median, rel=0.1)
        assert np.log(np.percentile(drawn, 90) / np.median(drawn)) / 1.2816 == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("kind", lengths.HISTOGRAMS)
def test_empirical_lengths_fill_the_histogram(kind):
    prompt, output = lengths.empirical(kind, N, *streams()[:3])
    held = lengths.source(kind)
    per_doubling = int(held["bins_per_doubling"])
    bins = [np.floor(np.log2(x) * per_doubling + 1e-9).astype(int) for x in (prompt, output)]
    cells = {(p, o): c for p, o, c in zip(held["prompt_bin"], held["output_bin"], held["count"], strict=True)}
    drawn, count = np.unique(np.stack(bins, axis=1), axis=0, return_counts=True)
    expected = np.array([cells[tuple(cell)] for cell in drawn]) / held["count"].sum()  # a KeyError: an unknown cell
    error = (count / N - expected) / np.sqrt(expected / N)
    assert abs(error).max() < 5.5 and error.std() < 1.1


def test_empirical_lengths_are_uniform_inside_a_bin():
    prompt, _ = lengths.empirical("azure_conv", N, *streams()[:3])
    per_doubling = int(lengths.source("azure_conv")["bins_per_doubling"])
    common = np.bincount(np.floor(np.log2(prompt) * per_doubling + 1e-9).astype(int)).argmax()
    low, high = (int(np.ceil(2 ** ((common + k) / per_doubling))) for k in (0, 1))
    count = np.bincount(prompt[(prompt >= low) & (prompt < high)] - low, minlength=high - low)
    chi2 = ((count - count.mean()) ** 2 / count.mean()).sum()
    free = high - low - 1
    assert free > 20 and abs(chi2 - free) < 5 * np.sqrt(2 * free)


def test_no_lengths_are_an_empty_draw():
    assert len(lengths.empirical("azure_conv", 0, *streams()[:3])[0]) == 0


def test_unknown_lengths_list_what_there_is():
    with pytest.raises(LookupError, match="no lengths are called 'poem'; there are chat, code"):
        lengths.shaped("poem", 3, *streams()[:2])
    with pytest.raises(LookupError, match=r"no histogram is called '\.\./x'"):
        lengths.source("../x")


def outputs():
    return lengths.lognormal(300, 1.0, N, streams(9)[0])


def test_two_bins_err_at_the_stated_rate_and_nested():
    output = outputs()
    told = [predictions.two_bins(output, 400, rate, streams()[0], 150, 900) for rate in (0.0, 0.1, 0.3)]
    truth = np.where(output >= 400, 900, 150)
    assert np.array_equal(told[0], truth)
    wrong = [t != truth for t in told]
    assert wrong[1].mean() == pytest.approx(0.1, abs=0.005)
    assert wrong[2].mean() == pytest.approx(0.3, abs=0.007)
    assert wrong[2][wrong[1]].all()


@pytest.mark.parametrize("sigma", [0.0, 0.4, 2.0])
def test_intervals_contain_the_truth(sigma):
    output = outputs()
    low, high = predictions.interval(output, sigma, *streams()[:2])
    assert ((low >= 1) & (low <= output) & (output <= high)).all()
    if sigma == 0.0:
        assert np.array_equal(low, output) and np.array_equal(high, output)
    else:
        long = output > 500
        assert np.log(high / output)[long].mean() == pytest.approx(sigma * np.sqrt(2 / np.pi), rel=0.02)
        assert abs(np.corrcoef(np.log(low / output)[long], np.log(high / output)[long])[0, 1]) < 0.02


def test_intervals_nest_as_they_widen():
    output = outputs()
    (low, high), (lower, higher) = (predictions.interval(output, s, *streams()[:2]) for s in (0.3, 0.6))
    assert (lower <= low).all() and (high <= higher).all()


def test_intervals_hold_the_largest_output_a_trace_may_have():
    low, high = predictions.interval(np.array([2**30]), 5.0, *streams()[:2])
    assert low[0] <= 2**30 <= high[0]


def test_client_limits_are_common_values_above_the_output():
    output = np.append(outputs(), [1, 4096, 4097, 9000])
    limit = predictions.client_limits(output, streams()[0])
    assert (limit >= output).all()
    small = limit <= 4096
    assert set(limit[small]) == set(predictions.LIMITS)
    assert (limit[~small] % 4096 == 0).all()
    assert len(set(limit[output == 300])) > 1, "headroom differs between clients"
    engine.Trace(arrival_us=np.zeros(len(output)), prompt_tokens=output, output_tokens=output, max_new_tokens=limit)


def test_client_limits_without_headroom_are_the_next_common_value():
    tight = predictions.client_limits(np.array([1, 256, 257, 4096, 4097]), streams()[0], 1.0)
    assert tight.tolist() == [256, 256, 512, 4096, 8192]


def test_draft_luck_is_a_uniform_byte_per_output_token():
    output = np.array([5, 1, 200_000])
    luck = predictions.draft_luck(output, streams()[0])
    assert luck.dtype == np.uint8 and luck.shape == (200_006,)
    count = np.bincount(luck, minlength=256)
    chi2 = ((count - count.mean()) ** 2 / count.mean()).sum()
    assert 255 - 5 * np.sqrt(510) < chi2 < 255 + 5 * np.sqrt(510)
    assert np.array_equal(predictions.draft_luck(output[:2], streams()[0]), luck[:6])


@pytest.mark.parametrize(
    "call",
    [
        lambda o, s: predictions.two_bins(o, 10, 1.5, s, 5, 20),
        lambda o, s: predictions.two_bins(o, 10, 0.5, s, 10, 20),
        lambda o, s: predictions.interval(o, -0.1, s, s),
        lambda o, s: predictions.client_limits(o, s, 0.5),
    ],
)
def test_impossible_predictions_are_a_sentence(call):
    with pytest.raises(ValueError, match=r"must be|use 1 <="):
        call(np.array([3, 30]), streams()[0])
