"""The page Calibration: opened by Streamlit's own test driver, its charts, and its answers computed a second time."""

from __future__ import annotations

import json
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from engine import profiles, workload
from measure.profile import sections
from tests.pages.test_home import link, visited, words
from ui import calibration, calibration_charts, calibration_views, labels, run, text
from ui.calibration import State

USUAL = State().profile
IDS = profiles.names()
MEASURED = [id for id in IDS if profiles.points(id)]
HOSTILE = {
    "unknown profile": {"profile": "nope"},
    "script": {"profile": "<script>alert(1)</script>"},
    "path": {"profile": "../../etc/passwd"},
    "off the scale": {"batch": "3"},
    "huge": {"context": "9" * 4000},
    "other digits": {"batch": "١"},
    "two values": {"profile": [USUAL, "classroom_orie"]},
    "unknown key": {"drop table": "1"},
}
TABS = calibration_views.TABS


def opened(tab: str = "", **query: Any) -> AppTest:
    return visited("calibration", {"calibration_view": tab} if tab else None, **query)


def healthy(app: AppTest) -> None:
    assert not app.exception, app.exception[0].message
    assert not app.error
    assert "Where the milliseconds come from" in words(app)


def told(id: str) -> dict[str, Any]:
    with (Path(profiles.FOLDER) / f"{id}.toml").open("rb") as file:
        return tomllib.load(file)


def test_page_opens_on_the_profile_of_the_first_preset_and_names_it() -> None:
    app = opened()
    healthy(app)
    assert workload.scenario(run.preset_ids()[0]).profile == USUAL
    assert app.selectbox(key="calibration_profile").value == USUAL
    assert labels.profile_line(USUAL, estimated=False) in words(app)
    assert not link(app)


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize("id", [USUAL, "classroom_orie", "h200-sxm-141g_llama-3.1-8b_tp1"])
def test_every_tab_opens_for_profiles_with_and_without_points(tab: str, id: str) -> None:
    app = opened(tab, profile=id)
    healthy(app)
    assert "does not exist" not in words(app)
    assert labels.profile_line(id, estimated=False) in words(app)


def test_profile_that_says_no_more_than_its_points_opens_in_every_tab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = told(USUAL) | {"title": "My own GPU"}
    (tmp_path / "my-own-gpu.csv").write_text((profiles.FOLDER / f"{USUAL}.csv").read_text("utf-8"), "utf-8")
    bare = {key: own[key] for key in ("title", "kind", "measured", "fit")}
    (tmp_path / "my-own-gpu.toml").write_text(sections(bare), "utf-8")
    for id in (USUAL, calibration.NOWHERE):
        (tmp_path / f"{id}.toml").write_text((profiles.FOLDER / f"{id}.toml").read_text("utf-8"), "utf-8")
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    for tab in TABS:
        app = opened(tab, profile="my-own-gpu")
        healthy(app)
        assert "Step times: **My own GPU**" in words(app)
    assert calibration.answers("my-own-gpu")["fits"] is None
    assert next(block for block, _ in calibration_views.answer_blocks("my-own-gpu")) == "calibration/dominant_any"


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE.keys())
def test_wrong_link_gives_a_sentence_and_the_usual_profile(query: dict[str, Any]) -> None:
    app = opened(**query)
    healthy(app)
    assert "This link asks for something that does not exist" in words(app)
    assert "<script>" not in words(app)
    assert app.selectbox(key="calibration_profile").value == USUAL


def test_choosing_a_profile_writes_it_into_the_link() -> None:
    app = opened()
    app.selectbox(key="calibration_profile").select("classroom_orie").run()
    healthy(app)
    assert link(app) == {"profile": "classroom_orie"}
    assert labels.badge("reported") in words(app)


@pytest.mark.parametrize("state", [State(), State(IDS[0], 1, 128, 512), State(IDS[-1], 256, 65_536, 2_048)])
def test_link_says_every_setting(state: State) -> None:
    assert calibration.decode({key: [value] for key, value in calibration.encode(state).items()}) == (state, "")


@pytest.mark.parametrize("id", IDS)
def test_answers_are_those_of_the_coefficients(id: str) -> None:
    data, found = told(id), calibration.answers(id)
    ps = {name: Fraction(value) for name, value in data[data["kind"]].items()}
    per_request = 8_192 * ps.get("per_context_ps", 0)
    floor = ps.get("floor_ps", 0) or ps["t0_ps"]
    assert found["knee"] == pytest.approx(float(max(0, floor - ps["t0_ps"]) / ps["per_token_ps"]))
    assert found["token_us"] == pytest.approx(float(ps["per_token_ps"]) / 1e6)
    assert found["kv_each_ms"] == pytest.approx(float(per_request + ps.get("per_seq_ps", 0)) / 1e9)
    assert data["memory"]["num_gpu_blocks"] * 16 // 8_192 == found["fits"]
    fits = found["fits"]
    if not per_request:
        assert found["kv_from"] is None
    else:
        first = next(batch for batch in range(1, 10_000) if batch * per_request > floor)
        assert found["kv_from"] == first
        assert (found["dominant"] == "Reading the weights") == (found["batch"] < first)

    batch = found["batch"]
    assert batch == min(32, fits)
    whole = dict(ps)
    for added in data.get("estimated", {}).values():
        for name, more in added.items():
            if name not in ("label", "note"):
                whole[name] = whole.get(name, Fraction(0)) + more

    def step(floor_ps: Fraction, context_ps: Fraction) -> float:
        linear = whole["t0_ps"] + whole["per_token_ps"] * batch
        return float(max(floor_ps, linear) + batch * (8_192 * context_ps + whole.get("per_seq_ps", 0))) / 1e9

    assert found["before_ms"] == pytest.approx(step(whole["floor_ps"], whole.get("per_context_ps", Fraction(0))))
    if "layers" not in data.get("model", {}):
        assert found["after_ms"] is None
        return
    shape = data["model"]
    attention = 2 * (shape["heads"] + shape["kv_heads"]) * shape["hidden"] * shape["head_dim"]
    layer = attention + 3 * shape["hidden"] * shape["intermediate"]
    weights = 2 * (shape["layers"] * layer + shape["vocabulary"] * shape["hidden"]) / shape["tensor_parallel"]
    read_ps = Fraction(weights) / (Fraction(data["gpu"]["bandwidth_gb_per_s"]) * 10**9) * 10**12
    after = step(max(whole["floor_ps"] - read_ps / 2, whole["t0_ps"]), whole["per_context_ps"] / 2)
    half_a_picosecond = 0.5 * batch * 8_192 / 1e9  # a profile's coefficients are whole ones
    assert found["after_ms"] == pytest.approx(after, abs=1.01 * half_a_picosecond)
    assert found["saved_pct"] == pytest.approx(100 * (1 - after / found["before_ms"]), rel=1e-4)
    assert found["saved_pct"] < 50


@pytest.mark.parametrize("id", IDS)
def test_answers_and_reasons_are_said_whole(id: str) -> None:
    for block, numbers in calibration_views.answer_blocks(id):
        said = text.fill(block, **numbers)
        assert "{" not in said
        assert "–" not in said, "a number that the profile cannot give"


@pytest.mark.parametrize("id", MEASURED)
def test_errors_on_screen_are_those_the_fit_states(id: str) -> None:
    errors, fit = calibration.points_frame(id)["error_pct"].abs(), told(id)["fit"]
    assert len(errors) == fit["points"]
    assert errors.median() == pytest.approx(fit["in_sample_median_pct"], abs=0.006)
    assert errors.max() == pytest.approx(fit["in_sample_worst_pct"], abs=0.006)


def test_a_profile_that_misses_a_target_says_why() -> None:
    frame, said = calibration.fits_frame(), calibration.reasons()
    assert list(frame.index) == list(calibration.titles().values())
    for title, verdict in frame[frame.columns[6]].items():
        assert (f"**{title}**" in said) == ("outside" in verdict)
    assert "does not say why" not in said


@pytest.mark.parametrize("id", IDS)
def test_bars_add_up_to_the_step_with_all_that_is_added(id: str) -> None:
    state = State(profile=id, batch=8, context=1_024, chunk=512)
    rows = calibration.terms_frame(state)
    whole = profiles.load(id, estimated=True)
    assert rows["ms"].sum() * 1e9 == pytest.approx(
        max(whole.floor_ps, whole.t0_ps + 520 * whole.per_token_ps)
        + whole.per_pair_ps * 512 * 256
        + (whole.per_context_ps + whole.per_mixed_context_ps) * 8 * 1_024
        + whole.per_seq_ps * 8
    )
    outlined = rows[rows["fill"] == calibration.FILLS[-1]]
    assert set(outlined["label"]) <= {"estimated", "fitted"}
    assert len(outlined) == len(labels.added_terms(told(id)))


def test_terms_of_no_table_are_listed_with_what_is_known() -> None:
    for id in IDS:
        frame, data = calibration.left_out_frame(id), told(id)
        assert len(frame) == len(data.get("estimated", {})) + len(data.get("unknown", {}))
        assert {"unknown"} <= set(frame["Known as"]) or not data.get("unknown")


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_chart_is_whole_and_says_the_profile(mode: Any) -> None:
    for id in (USUAL, "classroom_orie", MEASURED[0]):
        title = calibration.titles()[id]
        made = [calibration_charts.terms(State(profile=id), mode)]
        made += [calibration_charts.fit(id, kind, mode) for kind in ("decode", "prefill")]
        made += [calibration_charts.residuals(id, mode)] if id in MEASURED else []
        for panel in made:
            assert title in panel.spec["title"]["text"]
            assert len(panel.rows)
        fit = calibration_charts.fit(id, "decode", mode)
        assert {"floor", "knee", "curve", "end"} <= set(fit.rows["what"])
        names = {part.split('"')[0] for part in json.dumps(fit.spec).split('"field": "')[1:]}
        assert names <= {*fit.rows.columns} or id not in MEASURED
        for words_of in (calibration_charts.fit_alt(id, "decode"), calibration_charts.terms_alt(State(profile=id))):
            assert title in words_of
            assert words_of.endswith(".")


def test_labels_differ_in_colour_icon_and_word() -> None:
    for part in range(3):
        assert len({label[part] for label in labels.LABELS.values()}) == len(labels.LABELS) == 5
    assert all(labels.badge(kind) in labels.legend() for kind in labels.LABELS)
    with pytest.raises(KeyError, match="no label is called 'guessed'"):
        labels.badge("guessed")


def test_profile_line_names_what_was_added_only_where_it_was() -> None:
    assert "host time :blue-badge" in labels.profile_line(USUAL, estimated=True)
    assert labels.profile_line(USUAL, estimated=False).endswith("without host time.")
    assert "not measured" in labels.profile_line("classroom_orie", estimated=True)


def test_simplifications_are_shown_as_the_document_has_them() -> None:
    document = (calibration.ROOT / "docs" / "simplifications.md").read_text("utf-8")
    table = calibration.simplifications()
    assert (
        len(table) > 20 and len(table) == document.split("<!-- measured -->")[1].split("<!-- end")[0].count("\n| ") - 2
    )
    for what, (effect, setting) in zip(table.index, table.to_numpy(), strict=True):
        assert f"| {what} | {effect} | {setting} |" in document


def test_simplifications_come_largest_first_and_the_first_in_plain_words() -> None:
    effect = calibration._effect
    assert effect("quiet hour: mean latency −21.5 % (−30.0 to −10.0); rush hour +3.0 %") == 21.5
    assert effect("as fitted: mean latency −21.0 % (−28 to −14); steps +2.9 %: mean latency −23.5 %") == 2.5
    assert effect("each token at most one step later: 25 ms") == 0.0
    effects = [effect(said) for said in calibration.simplifications()["Measured effect"]]
    assert effects == sorted(effects, reverse=True)
    first = calibration.largest()
    assert len(first) == calibration.LARGEST
    assert all(len(plain) > 20 for plain in first.index)
    assert list(first["Measured effect"]) == list(calibration.simplifications()["Measured effect"][: len(first)])


def test_take_away_says_the_unseen_half_and_the_worst_figure_of_every_server() -> None:
    said = calibration.closing_facts()["replays"]
    for found in calibration.validation_charts.stored()["runs"].values():
        errors = found["servers"]["host"]["error_pct"]
        worst = max((errors[part][name] for part in errors for name in calibration.validation.FIGURES), key=abs)
        own = next(part for part in said.split(" and ") if found["gpu"] in part)
        assert own.startswith(calibration.validation.signed(errors["second"]["tpot_mean_ms"]))
        assert calibration.validation.signed(worst) in own.split("worst figure of all")[1]


def test_times_below_the_floor_are_labelled_on_the_axis() -> None:
    panel = calibration_charts.fit(USUAL, "decode")
    axis = next(
        layer["encoding"]["y"]["axis"] for layer in panel.spec["layer"] if layer["encoding"].get("y", {}).get("axis")
    )
    floor = float(panel.rows.loc[panel.rows["what"] == "floor", "y"].iloc[0])
    assert min(axis["values"]) < floor
    assert len(axis["values"]) >= 4


def test_commands_on_the_page_name_modules_and_options_that_exist() -> None:
    views = calibration_views
    for command in (views.MEASURE, views.MEASURE_SERVER, views.MEASURE_TINY):
        _, flag, module, *rest = command.split()
        assert flag == "-m"
        source = (calibration.ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
        assert all(f'"{option}"' in source for option in rest if option.startswith("--"))
    assert "\nprofile:" in (calibration.ROOT / "Makefile").read_text("utf-8")


def test_real_servers_open_on_the_chosen_gpu_and_say_where_none_was_recorded() -> None:
    said = words(opened("Against real servers", profile="rtxpro6000-96g_llama-3.1-8b_tp1"))
    assert "Recorded: vLLM 0.19.0 on RTX PRO 6000" in said and "how far off" not in said
    said = words(opened("Against real servers", profile="h100-sxm-80g_llama-3.1-8b_tp1"))
    assert "No run of a real server was recorded for *H100 SXM 80 GB" in said
    assert "Recorded: vLLM 0.19.0 on GeForce RTX 4090" in said


def test_the_page_asks_and_ends_with_figures_of_its_own_files() -> None:
    app = visited("calibration", {"ask_calibration_miss": "Fewer than one in ten"})
    said = " ".join(element.value for element in app.markdown)
    assert "Before you open the residuals" in said and "Half of the errors are below" in said
    assert "Every millisecond of this site" in said


def test_another_term_gains_nothing_where_times_go_in_stairs() -> None:
    fit = profiles.about(calibration.NOWHERE)["fit"]
    assert fit["held_out_p95_pct"] > calibration.P95_TARGET
    assert abs(fit["candidate_additive_pct"] - fit["candidate_floor_pct"]) < 1.0
