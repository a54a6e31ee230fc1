"""Profiles load, add their estimate on request, and say in a sentence what is wrong."""

import numpy as np
import pytest

from engine import profiles, step_time


@pytest.mark.parametrize("id", profiles.names())
def test_load_returns_the_integers_of_its_kind(id):
    data, profile = profiles.about(id), profiles.load(id)
    for name, value in data[data["kind"]].items():
        assert getattr(profile, name) == value


@pytest.mark.parametrize("id", profiles.names())
def test_estimate_is_added_only_on_request_and_term_by_term(id):
    bare, full = profiles.load(id), profiles.load(id, estimated=True)
    added = dict.fromkeys(profiles.COEFFICIENTS, 0)
    for term, coefficients in profiles.about(id).get("estimated", {}).items():
        alone = profiles.load(id, estimated=(term,))
        for name, more in coefficients.items():
            if name not in ("label", "note"):
                assert getattr(alone, name) - getattr(bare, name) == more
                added[name] += more
    assert {name: getattr(full, name) - getattr(bare, name) for name in added} == added


def test_profiles_of_all_kinds_are_there():
    kinds = {id: profiles.about(id)["kind"] for id in profiles.names()}
    assert {"a100-sxm-80g_llama-3.1-8b_tp1", "h100-sxm-80g_llama-3.1-70b_tp4", "l40s-48g_llama-3.1-8b_tp1"} <= set(
        kinds
    )
    assert kinds["classroom_orie"] == "reported"
    assert kinds["h200-sxm-141g_llama-3.1-8b_tp1"] == "datasheet"
    assert "not measured" in profiles.about("h200-sxm-141g_llama-3.1-8b_tp1")["title"]


def test_classroom_model_is_its_formula():
    """S(b) = 45.5 + 0.30 max(0, b - 64) ms, whatever the context."""
    profile, batch = profiles.load("classroom_orie"), np.array([1, 64, 65, 164, 2048])
    expected = 45.5 + 0.30 * np.maximum(0, batch - 64)
    assert step_time.step_ms(profile, step_time.decode(batch, 4096)) == pytest.approx(expected)


def test_h200_is_the_h100_with_more_bandwidth():
    near, far = (profiles.load(f"{gpu}_llama-3.1-8b_tp1") for gpu in ("h100-sxm-80g", "h200-sxm-141g"))
    assert (far.t0_ps, far.per_token_ps, far.per_pair_ps) == (near.t0_ps, near.per_token_ps, near.per_pair_ps)
    assert near.floor_ps * 3350 / 4800 < far.floor_ps < near.floor_ps
    assert far.per_context_ps == round(near.per_context_ps * 3350 / 4800)


def test_about_is_a_copy():
    id = profiles.names()[0]
    kind = profiles.about(id)["kind"]
    profiles.about(id)[kind]["t0_ps"] = -1
    assert profiles.load(id).t0_ps > 0


def test_unknown_id_lists_what_there_is():
    with pytest.raises(LookupError, match="no GPU profile is called 'tpu'; there are a100"):
        profiles.load("tpu")


@pytest.mark.parametrize("id", profiles.names())
def test_points_have_equal_columns_and_positive_times(id):
    points = profiles.points(id)
    assert bool(points) == (profiles.about(id)["kind"] == "measured")
    if not points:
        return
    assert len({len(v) for v in points.values()}) == 1
    assert min(points["measured_ms"]) > 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[measured", "is not valid TOML"),
        ("title = 'x'", "has no .measured. section"),
        ("[measured]\nt0_ps = 1000000", "lacks per_token_ps"),
        ("[measured]\nt0_ps = 1000000\nper_token_ps = 1\nfoo_ps = 1", "unknown coefficients foo_ps"),
        ("[measured]\nt0_ps = 1000000\nper_token_ps = -1", "per_token_ps must be a whole number of picoseconds"),
    ],
)
def test_broken_profile_is_a_sentence(tmp_path, monkeypatch, text, sentence):
    (tmp_path / "broken.toml").write_text(text)
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    profiles._read.cache_clear()
    with pytest.raises(ValueError, match=sentence):
        profiles.load("broken")
    profiles._read.cache_clear()
