"""Profiles load, add their estimate on request, and say in a sentence what is wrong."""

import pytest

from engine import profiles


@pytest.mark.parametrize("id", profiles.names())
def test_load_returns_the_measured_integers(id):
    data, profile = profiles.about(id), profiles.load(id)
    for name, value in data["measured"].items():
        assert getattr(profile, name) == value


@pytest.mark.parametrize("id", profiles.names())
def test_estimate_is_added_only_on_request(id):
    estimate = {k: v for k, v in profiles.about(id)["estimated"].items() if k != "note"}
    bare, full = profiles.load(id), profiles.load(id, estimated=True)
    for name, more in estimate.items():
        assert getattr(full, name) - getattr(bare, name) == more


def test_both_gpus_are_there():
    assert profiles.names() == ["h100-sxm-80g_llama-3.1-8b_tp1", "rtx4090-24g_llama-3.1-8b_tp1"]


def test_about_is_a_copy():
    id = profiles.names()[0]
    profiles.about(id)["measured"]["t0_ps"] = -1
    assert profiles.load(id).t0_ps > 0


def test_unknown_id_lists_what_there_is():
    with pytest.raises(LookupError, match="no GPU profile is called 'tpu'; there are h100"):
        profiles.load("tpu")


@pytest.mark.parametrize("id", profiles.names())
def test_points_have_equal_columns_and_positive_times(id):
    points = profiles.points(id)
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
