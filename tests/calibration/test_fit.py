"""The shipped coefficients are the fit of the measured points, within the errors that the profile states."""

from pathlib import Path

import numpy as np
import pytest

from engine import profiles

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_tables = pytest.mark.skipif(
    not (SHARED / "data" / "gpu").is_dir(), reason="the measured tables (../shared/data/gpu) are not on this machine"
)
PS_PER_MS = 1e9


def predicted_ms(profile, points):
    """Step time of each point by the formula of `Profile`, in ms."""
    c = {name: np.array(values) for name, values in points.items()}
    prefills = c["n_prefill_seqs"] > 0
    ps = (
        np.maximum(profile.floor_ps, profile.t0_ps + profile.per_token_ps * c["n_new_tokens"])
        + profile.per_pair_ps * c["quad_token_pairs"]
        + profile.per_context_ps * c["sum_context_tokens"]
        + profile.per_past_ps * c["prefill_past"] * c["n_prefill_seqs"]
        + profile.per_mixed_context_ps * c["sum_context_tokens"] * prefills
        + profile.per_seq_ps * c["n_decode"]
    )
    return ps / PS_PER_MS


@pytest.mark.parametrize("id", profiles.names())
def test_residuals_stay_within_the_stated_error(id):
    points, stated = profiles.points(id), profiles.about(id)["fit"]
    error = np.abs(predicted_ms(profiles.load(id), points) / np.array(points["measured_ms"]) - 1) * 100
    assert error.max() <= stated["worst_pct"] + 0.05
    # the grid gives odd shapes more weight than the table does, so the points state their own quantiles
    assert np.median(error) == pytest.approx(stated["points_median_pct"], abs=0.05)
    assert np.percentile(error, 90) == pytest.approx(stated["points_p90_pct"], abs=0.05)


@pytest.mark.parametrize("id", profiles.names())
def test_coefficients_have_physical_signs(id):
    profile = profiles.load(id)
    assert (profile.coefficients() >= 0).all()
    assert profile.floor_ps > profile.t0_ps > 0  # reading the weights costs more than launching the kernels
    assert profile.per_token_ps > 0
    assert profile.per_context_ps > 0
    # one token of context costs less than one new token
    assert profile.per_context_ps + profile.per_mixed_context_ps < profile.per_token_ps


@pytest.mark.parametrize("id", profiles.names())
def test_estimate_is_small_beside_what_was_measured(id):
    data = profiles.about(id)
    for name, more in data["estimated"].items():
        if name == "swap_block_ps":  # no step needs the link
            assert "swap_block_ps" not in data["measured"]
        elif name != "note":
            assert 0 <= more < 0.2 * data["measured"][name]


@needs_tables
@pytest.mark.parametrize("id", profiles.names())
def test_refit_reproduces_the_shipped_files(id):
    from measure import fit_profiles

    folder = SHARED / "data" / "gpu"
    published = {r["profile"]: r for r in fit_profiles.read(folder / "fits.csv")}
    rows = fit_profiles.read(folder / f"{id}.csv")
    assert fit_profiles.points_csv(id, rows) == (profiles.FOLDER / f"{id}.csv").read_text()
    c = fit_profiles.columns(rows)
    refit = fit_profiles.picoseconds(fit_profiles.fit(c, fit_profiles.SOURCES[id].mix), fit_profiles.SOURCES[id].mix)
    shipped = profiles.about(id)["measured"]
    assert set(refit) == set(shipped)
    for name in refit:
        assert refit[name] == pytest.approx(shipped[name], rel=1e-6, abs=1)
    assert fit_profiles.profile_toml(id, rows, published[id]).startswith(f'title = "{profiles.about(id)["title"]}"')


PUBLISHED = {
    "floor_ps": "w_ms",
    "t0_ps": "t0_ms",
    "per_token_ps": "a_ms_per_token",
    "per_pair_ps": "b_ms_per_pair",
    "per_context_ps": "g_ms_per_ctx_token",
    "per_seq_ps": "e_ms_per_decode",
    "per_mixed_context_ps": "gmix_ms_per_ctx_token",
    "per_past_ps": "h_ms_per_past_token",
}


def published_fit(id):
    from measure import fit_profiles

    form = profiles.about(id)["fit"]["form"]
    rows = fit_profiles.read(SHARED / "data" / "gpu" / "fits.csv")
    row = next(r for r in rows if r["profile"] == id and r["form"] == form)
    return {field: float(row[column] or 0) * PS_PER_MS for field, column in PUBLISHED.items()}


@needs_tables
def test_h100_agrees_with_the_published_fit():
    measured = profiles.about("h100-sxm-80g_llama-3.1-8b_tp1")["measured"]
    for name, value in published_fit("h100-sxm-80g_llama-3.1-8b_tp1").items():
        assert measured.get(name, 0) == pytest.approx(value, rel=1e-3)


@needs_tables
def test_rtx4090_fits_better_than_the_published_fit():
    """Two splits of the max are self-consistent; the published fit stopped at the one with the larger error."""
    from measure import fit_profiles

    id = "rtx4090-24g_llama-3.1-8b_tp1"
    c = fit_profiles.columns(fit_profiles.read(SHARED / "data" / "gpu" / f"{id}.csv"))
    theirs = np.array([published_fit(id)[k] / PS_PER_MS for k in (*fit_profiles.FIELDS, *fit_profiles.MIX_FIELDS)])
    measured = profiles.about(id)["measured"]
    ours = np.array([measured[k] / PS_PER_MS for k in (*fit_profiles.FIELDS, *fit_profiles.MIX_FIELDS)])
    squared = [float(np.sum(fit_profiles.relative_error(p, c, True) ** 2)) for p in (ours, theirs)]
    assert squared[0] < squared[1]
    apart = fit_profiles.predict_ms(ours, c, True) / fit_profiles.predict_ms(theirs, c, True) - 1
    assert np.abs(apart).max() < 0.08
