"""The shipped coefficients are the fit of the committed points, to the last digit, within the errors they state."""

import csv
from dataclasses import asdict, replace

import numpy as np
import pytest

from engine import profiles, rulebooks, step_time
from engine.records import Settings, Trace
from engine.simulate import simulate
from measure import fit, fit_profiles, points, replay

needs_tables = pytest.mark.skipif(
    not replay.FOLDER.is_dir(), reason="the measured tables (../shared/data/gpu) are not on this machine"
)
MEASURED = [id for id in profiles.names() if profiles.about(id)["kind"] == "measured"]
SHIPPED = list(fit_profiles.SHIPPED)


def committed(id):
    return points.read(profiles.FOLDER / f"{id}.csv")[1]


def test_every_table_has_its_profile():
    assert len(SHIPPED) == 7
    assert set(SHIPPED) <= set(MEASURED)


@pytest.mark.parametrize("id", SHIPPED)
def test_refit_from_the_committed_points_gives_every_digit(id, capsys):
    stated = profiles.about(id)["fit"]
    found = fit.fit(committed(id), fit_profiles.SHIPPED[id].source.mixing_measured)
    assert (found.form, found.coefficients) == (stated["form"], profiles.about(id)["measured"])
    for sample, made in (("in_sample", found.in_sample), ("held_out", found.held_out)):
        for name, value in asdict(made).items():
            assert stated[f"{sample}_{name}_pct"] == pytest.approx(value, abs=0.011)
    with capsys.disabled():
        print(
            f"\n{id}: {found.form}, {stated['points']} points; in-sample {found.in_sample.median:.2f} / "
            f"{found.in_sample.p95:.2f} %, held-out fifths {found.held_out.median:.2f} / {found.held_out.p95:.2f} %"
        )


@pytest.mark.parametrize("id", SHIPPED)
def test_errors_meet_their_targets_or_the_profile_says_why(id):
    stated = profiles.about(id)["fit"]
    for sample in ("in_sample", "held_out", "table"):
        assert stated[f"{sample}_median_pct"] <= 5.0
        assert stated[f"{sample}_p95_pct"] <= 15.0 or len(stated["worse"]) > 80


@pytest.mark.parametrize("id", SHIPPED)
def test_the_form_is_the_one_with_the_least_held_out_error(id):
    stated = profiles.about(id)["fit"]
    tried = {form: stated[f"candidate_{form}_pct"] for form in fit.FORMS if f"candidate_{form}_pct" in stated}
    assert ("floor_mix" in tried) == fit_profiles.SHIPPED[id].source.mixing_measured
    assert tried[stated["form"]] <= min(tried.values()) + fit.TIE_POINTS


@pytest.mark.parametrize("id", MEASURED)
def test_coefficients_have_physical_signs(id):
    profile = profiles.load(id)
    assert (profile.coefficients() >= 0).all()
    assert profile.per_token_ps > 0
    if id in SHIPPED:
        assert profile.floor_ps > profile.t0_ps > 0  # reading the weights costs more than launching the kernels
        assert profile.per_context_ps > 0
        # one token of context costs less than one new token
        assert profile.per_context_ps + profile.per_mixed_context_ps < profile.per_token_ps


@pytest.mark.parametrize("id", SHIPPED)
def test_the_floor_is_no_faster_than_the_datasheet_allows(id):
    """Nothing reads the weights faster than the memory's peak bandwidth, nothing computes above the peak rate."""
    model, gpu, table = profiles.model(id), profiles.about(id)["gpu"], fit.columns(committed(id))
    weights_ms = model.read_bytes / model.tensor_parallel / gpu["bandwidth_gb_per_s"] / 1e6
    assert weights_ms < profiles.load(id).floor_ps / 1e9 < 2 * weights_ms
    reached = model.flops(table) / table["measured_ms"] / 1e9  # TFLOP/s
    assert reached.max() < gpu["bf16_tflops"]


@pytest.mark.parametrize("id", SHIPPED)
def test_estimate_is_small_beside_what_was_measured(id):
    measured, terms = profiles.about(id)["measured"], profiles.about(id)["estimated"]
    assert terms["swap"].keys() == {"swap_block_ps", "label", "note"}
    for term in set(terms) - {"swap"}:
        assert terms[term]["label"] in {"estimated", "fitted"}
        assert 0 < terms[term]["floor_ps"] < 0.2 * measured["floor_ps"]
        assert terms[term].get("per_token_ps", 0) < 0.2 * measured["per_token_ps"]


@pytest.mark.parametrize("id", SHIPPED)
def test_what_is_left_out_is_estimated_or_named_as_unknown(id):
    said = profiles.about(id)
    assert "host" in said["estimated"] or len(said["unknown"]["host"]) > 20
    if not fit_profiles.SHIPPED[id].source.mixing_measured:
        assert "mixing" in said["unknown"] and "elementwise" in said["estimated"]
        assert not profiles.load(id, estimated=True).per_mixed_context_ps


@needs_tables
@pytest.mark.parametrize("id", SHIPPED)
def test_points_and_profile_are_what_the_script_writes(id):
    made, _, kept = fit_profiles.profile(id, replay.FOLDER.parent / f"{id}.csv", _estimates()[id])
    assert made == (profiles.FOLDER / f"{id}.toml").read_text()
    assert kept == committed(id)


@needs_tables
def test_points_are_no_faster_than_their_table():
    """Choosing a cell's step by its time would: the table's mean residual is the same at the points."""
    for id in SHIPPED:
        memory = 16 * profiles.about(id)["memory"]["num_gpu_blocks"]
        kept, fitting = fit_profiles.reduced(points.read(replay.FOLDER.parent / f"{id}.csv")[1], memory)
        own = fit.coefficients(fit.columns(fitting), profiles.about(id)["fit"]["form"])
        off = [np.mean(fit.relative_error(own, fit.columns(rows))) for rows in (kept, fitting)]
        assert abs(off[0] - off[1]) < 0.02


def _estimates():
    with (replay.FOLDER.parent / "fits.csv").open(newline="") as lines:
        return {row["profile"]: row for row in csv.DictReader(lines)}


def test_floor_is_found_where_it_was_planted():
    truth = {"floor_ps": 9_000_000_000, "t0_ps": 2_000_000_000, "per_token_ps": 40_000_000, "per_pair_ps": 2_000}
    truth |= {
        "per_context_ps": 50_000,
        "per_seq_ps": 10_000_000,
        "per_mixed_context_ps": 70_000,
        "per_past_ps": 500_000,
    }
    rows = []
    for batch in (1, 4, 16, 64):
        for context in (128, 1024, 4096):
            rows.append(points.decode([context] * batch, 1.0))
            rows += [points.prefill(chunk, 512, 1.0, 1, [context] * batch) for chunk in (16, 256, 1024)]
    rows += [points.prefill(chunk, past, 1.0) for chunk in (32, 128, 512, 2048) for past in (0, 4096)]
    profile = profiles.Profile(name="", **truth)
    rows = [replace(row, measured_ms=float(step_time.step_ms(profile, fit.columns([row]))[0])) for row in rows]
    found = fit.fit(rows, mixing_measured=True)
    assert found.form == "floor_mix"
    for name, value in truth.items():
        assert found.coefficients[name] == pytest.approx(value, rel=1e-3)
    assert found.held_out.worst < 0.1


@pytest.mark.parametrize(("rows", "sentence"), [(3, "too few"), (40, "at least four token counts")])
def test_a_table_that_cannot_be_fitted_is_a_sentence(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit.fit([points.decode([128], 5.0)] * rows, mixing_measured=True)


@pytest.mark.parametrize("id", profiles.names())
def test_the_kernel_steps_as_the_formula_says(id):
    """A lone request: its chunks and its decodes, to the microsecond."""
    profile = profiles.load(id)
    trace = Trace(arrival_us=[0], prompt_tokens=[700], output_tokens=[40])
    settings = Settings(max_num_seqs=4, max_num_batched_tokens=512, num_gpu_blocks=100)
    steps = simulate(trace, settings, profile, rulebooks.load("vllm_v1"), ("requests", "steps")).steps
    chunks = [(512, 0), (188, 512)]
    expected = [step_time.step_ms(profile, step_time.prefill([q], [c]))[0] for q, c in chunks]
    expected += [step_time.step_ms(profile, step_time.decode([1], [700 + i]))[0] for i in range(39)]
    lasted = np.append(steps["start_us"][1:], steps["start_us"][-1]) - steps["start_us"]
    assert np.abs(lasted[:-1] - np.array(expected)[:-1] * 1000).max() <= 1.0
