"""Uploaded files: each format read back, every bad row named, and nothing hostile gets past a sentence."""

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from identities import blocks_of, parents_differ

from engine.workload import cells, prefixes, upload

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces"
HEADER = "arrival_ms,prompt_tokens,output_tokens\n"
AZURE = b"""TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-17 00:00:00,879,55
"""


def lines(*entries):
    return "\n".join(json.dumps(e) for e in entries).encode()


def turn(timestamp, length, answer, ids=None):
    entry = {"timestamp": timestamp, "input_length": length, "output_length": answer}
    return entry if ids is None else {**entry, "hash_ids": ids}


def run(**changed):
    made = {
        "date": "20250711-120000",
        "backend": "vllm",
        "model_id": "m",
        "num_prompts": 3,
        "request_rate": 4.0,
        "burstiness": 1.0,
        "max_concurrency": None,
        "completed": 3,
        "total_input_tokens": 60,
        "input_lens": [10, 20, 30],
        "output_lens": [5, 6, 7],
        "start_times": [1000.5, 1000.25, 1002.0],
        "ttfts": [0.1, 0.1, 0.1],
        "errors": ["", "", ""],
    }
    made.update(changed)
    return {name: value for name, value in made.items() if value is not ...}


def good(data, mapping=None, **limits):
    """Read a file that must have no fault."""
    done = upload.read("x", data, mapping, **limits)
    assert done.problems == [] and done.trace is not None
    return done


def only_problem(data, mapping=None):
    """Read a file that must be refused with one sentence."""
    done = upload.read("file.csv", data, mapping)
    assert done.trace is None and len(done.problems) == 1
    return done.problems[0]


# --- the four formats


def test_azure_file_is_read():
    done = good(AZURE)
    assert done.format == "azure" and done.notes == []
    assert done.trace.arrival_us.tolist() == [0, 4_314_579, 20_653_319_410]
    assert done.trace.prompt_tokens.tolist() == [374, 396, 879]
    assert done.trace.output_tokens.tolist() == [44, 109, 55]


def test_azure_times_of_other_zones_are_one_clock():
    rows = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 02:00:00.5+02:00,1,1\n2024-05-10T00:00:01Z,1,1\n"
    assert good(rows).trace.arrival_us.tolist() == [0, 500_000]


def test_mooncake_lines_are_read():
    done = good(lines(turn(1000, 1100, 50, [0, 1, 2]), turn(4000, 600, 9, [0, 5]), turn(4000, 520, 9, [0, 5])))
    trace = done.trace
    assert done.format == "mooncake"
    assert trace.arrival_us.tolist() == [0, 3_000_000, 3_000_000]
    assert trace.prompt_tokens.tolist() == [1100, 600, 520]
    assert parents_differ(trace.block_hashes) == 0
    first, second, third = (blocks_of(trace, row) for row in range(3))
    assert [len(x) for x in (first, second, third)] == [1150 // 16, 609 // 16, 529 // 16]
    assert np.array_equal(first[:32], second[:32]) and not set(first[32:]) & set(second)
    # id 5 covers a part: equal as far as both prompts are full blocks of it, then the answers differ
    assert np.array_equal(second[:32], third[:32]) and second[32] != third[32]


def test_mooncake_id_behind_another_id_is_another_block():
    trace = good(lines(turn(0, 1024, 1, [7, 8]), turn(0, 1024, 1, [9, 8]), turn(0, 1024, 1, [8, 8]))).trace
    assert parents_differ(trace.block_hashes) == 0
    assert len(np.unique(trace.block_hashes[1])) == 6 * 32


def test_mooncake_reuse_counts_whole_blocks():
    trace = good(lines(turn(0, 1024, 16, [1, 2]), turn(9, 1024, 16, [1, 2]), turn(9, 1024, 16, [1, 3]))).trace
    # the second prompt finds all but its last block, which has the last prompt token; the third the first 512
    assert prefixes.reused_share(trace) == (1024 - 16 + 512) / 3072


def test_mooncake_without_ids_has_unique_blocks():
    assert good(lines(turn(0, 100, 5), turn(1.5, 100, 5, []))).trace.block_hashes is None
    mixed = good(lines(turn(0, 512, 5, [3]), turn(1.5, 512, 5))).trace
    assert mixed.arrival_us.tolist() == [0, 1500]
    assert not set(blocks_of(mixed, 0)) & set(blocks_of(mixed, 1))


def test_mooncake_as_one_json_list_is_read():
    entries = [turn(0, 512, 5, [3]), turn(1, 512, 5, [3])]
    assert good(json.dumps(entries, indent=1).encode()).format == "mooncake"
    assert len(good(json.dumps(entries).encode()).trace) == 2


def test_vllm_result_is_read():
    done = good(json.dumps(run()).encode())
    assert done.format == "vllm" and done.notes == []
    assert done.trace.arrival_us.tolist() == [250_000, 0, 1_750_000]
    assert done.trace.prompt_tokens.tolist() == [10, 20, 30]
    assert done.trace.output_tokens.tolist() == [5, 6, 7]
    assert len(good(json.dumps(run(), indent=2).encode()).trace) == 3


def test_vllm_result_of_a_closed_loop_says_so():
    (note,) = good(json.dumps(run(max_concurrency=2)).encode()).notes
    assert "At most 2 requests were in flight" in note


def test_vllm_result_without_start_times_draws_gaps_at_its_rate():
    n = 2000
    lens = dict(input_lens=[10] * n, output_lens=[5] * n, errors=[], start_times=...)
    done = good(json.dumps(run(**lens, request_rate=4.0, burstiness=0.25)).encode())
    assert "gaps were drawn at its request rate of 4 a second and burstiness 0.25" in done.notes[0]
    gaps = np.diff(done.trace.arrival_us) / 1e6
    assert gaps.mean() == pytest.approx(0.25, rel=5 * 2 / np.sqrt(n))
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.15)


def test_vllm_result_without_start_times_and_rate_is_a_closed_loop_or_a_batch():
    done = good(json.dumps(run(start_times=..., request_rate="inf", max_concurrency=2)).encode())
    assert done.trace.after.tolist() == [-1, -1, 0] and "2 clients send" in done.notes[0]
    done = good(json.dumps(run(start_times=..., request_rate="inf")).encode())
    assert done.trace.arrival_us.tolist() == [0, 0, 0] and "all requests arrive at once" in done.notes[0]


def test_vllm_failed_requests_are_left_out():
    done = upload.read("r.json", json.dumps(run(errors=["", "Timeout", ""], output_lens=[5, 0, 7])).encode())
    assert done.problems == ["Row 2 failed when it was recorded ('Timeout'): it was left out."]
    assert done.trace.prompt_tokens.tolist() == [10, 30]


def test_appended_vllm_results_are_read_up_to_the_first():
    done = good(lines(run(), run(input_lens=[1, 1, 1])))
    assert done.trace.prompt_tokens.tolist() == [10, 20, 30] and "the first one was read" in done.notes[0]


def test_plain_csv_is_read_by_our_names():
    text = "priority,arrival_s,prompt_tokens,output_tokens,max_new_tokens,comment\n0,1.5,100,7,16,=1+1\n-2,1,50,3,3,\n"
    trace = good(text.encode()).trace
    assert trace.arrival_us.tolist() == [500_000, 0]
    assert trace.priority.tolist() == [0, -2]
    assert trace.max_new_tokens.tolist() == [16, 3]
    assert trace.predicted_tokens is None


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_plain_csv_is_read_by_a_mapping(separator, end):
    rows = [["when", "in", "a b"], ["10", "5", " 3 "], ["", "", ""], ["20", "6.0", "4"]]
    data = "\ufeff" + end.join(separator.join(row) for row in rows) + end
    trace = good(data.encode(), {"arrival_us": "when", "prompt_tokens": "in", "output_tokens": "a b"}).trace
    assert trace.arrival_us.tolist() == [0, 10]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([5, 6], [3, 4])


def test_what_we_write_is_what_we_read():
    rng = np.random.default_rng(0)
    columns = {
        "arrival_us": rng.integers(0, 2**40, 500),
        "prompt_tokens": rng.integers(1, 2**21, 500),
        "output_tokens": rng.integers(1, 2**21, 500),
        "class_id": rng.integers(0, 255, 500),
    }
    columns["arrival_us"][7] = 0
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    trace = good(text.getvalue().encode()).trace
    for name, values in columns.items():
        assert np.array_equal(getattr(trace, name), values)


# --- bad rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,abc,3", "Row 3, column prompt_tokens: 'abc' is not a whole number: write one from 1 to 2,097,152"),
        ("1,=SUM(A1),3", "Row 3, column prompt_tokens: '=SUM(A1)' is not a whole number"),
        ("1,-5,3", "Row 3, column prompt_tokens: '-5' is out of range"),
        ("1,0,3", "Row 3, column prompt_tokens: '0' is out of range"),
        ("1,5,2.5", "Row 3, column output_tokens: '2.5' is not a whole number"),
        ("1,5,NaN", "Row 3, column output_tokens: 'NaN' is not a whole number"),
        ("1,5,1e5", "Row 3, column output_tokens: '1e5' is not a whole number"),
        ("1,5,1_000", "Row 3, column output_tokens: '1_000' is not a whole number"),
        ("1,5,٣", "Row 3, column output_tokens: '٣' is not a whole number"),
        ("1,5,", "Row 3, column output_tokens: '' is not a whole number"),
        ("1,5," + "9" * 5000, f"Row 3, column output_tokens: '{'9' * 37}...' is not a whole number"),
        ("1,5,99999999", "Row 3, column output_tokens: '99999999' is out of range"),
        ("inf,5,3", "Row 3, column arrival_ms: 'inf' is not a time"),
        ("1e999,5,3", "Row 3, column arrival_ms: '1e999' is not a time"),
        ("1e300,5,3", "Row 3, column arrival_ms: '1e300' is out of range"),
        ("-1,5,3", "Row 3, column arrival_ms: '-1' is out of range"),
        ("1,5", "Row 3 has 2 columns, the header 3"),
        ("1,5,6,7", "Row 3 has 4 columns, the header 3"),
        ('"1\u202e\n",5,6', "Row 3, column arrival_ms: '1�' is not a time"),
    ],
)
def test_bad_row_is_named_and_the_others_are_read(row, said):
    done = upload.read("x.csv", f"{HEADER}0,9,9\n{row}\n5,8,8\n".encode())
    assert len(done.problems) == 1 and done.problems[0].startswith(said) and done.problems[0].endswith(".")
    assert done.trace.prompt_tokens.tolist() == [9, 8]


@pytest.mark.parametrize(
    "stamp",
    ["2023-02-29 00:00:00", "2023-13-01 00:00:00", "1969-12-31 00:00:00", "2023-01-01 24:00:00", "yesterday", "5"],
)
def test_bad_date_is_named(stamp):
    done = upload.read("x.csv", AZURE + f"{stamp},5,6\n".encode())
    assert len(done.trace) == 3 and done.problems[0].startswith(f"Row 5, column TIMESTAMP: '{stamp}' is no")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"timestamp": 1, "input_length": 5}, "Row 2 has no output_length"),
        (turn(1, True, 5), "Row 2, column input_length: True is not a whole number"),
        (turn(1, 5.5, 5), "Row 2, column input_length: 5.5 is not a whole number"),
        (turn(1, 10**25, 5), "Row 2, column input_length: 10000000000000000000000000 is out of range"),
        (turn(float("nan"), 5, 5), "Row 2, column timestamp: nan is not a time"),
        (turn(float("inf"), 5, 5), "Row 2, column timestamp: inf is not a time"),
        (turn(None, 5, 5), "Row 2, column timestamp: None is not a time"),
        (turn([1], 5, 5), "Row 2, column timestamp: a list is not a time"),
        (turn(1, 600, 5, [1, 2, 3]), "Row 2, column hash_ids: a list has 3 ids; 600 tokens are 2 blocks of 512"),
        (turn(1, 600, 5, [1, -2]), "Row 2, column hash_ids: a list must hold whole numbers from 0"),
        (turn(1, 600, 5, [1, 2**63]), "Row 2, column hash_ids: a list must hold whole numbers from 0"),
        (turn(1, 600, 5, {"a": 1}), "Row 2, column hash_ids: an object must hold whole numbers"),
        ([1, 2], "Row 2 is not a JSON object"),
        ("\ud800", "Row 2 is not a JSON object"),
    ],
)
def test_bad_mooncake_row_is_named_and_the_others_are_read(entry, said):
    done = upload.read("x.jsonl", lines(turn(0, 9, 9), entry, turn(5, 8, 8)))
    assert len(done.problems) == 1 and done.problems[0].startswith(said)
    assert done.trace.prompt_tokens.tolist() == [9, 8]


def test_broken_line_of_json_is_named_wherever_it_stands():
    for rows in (b'{"timestamp": 0,\n', b"{" + b'"a":' * 3 + b"\n"):
        done = upload.read("x.jsonl", rows + lines(turn(5, 8, 8)))
        assert done.problems == ["Row 1 is not a JSON object: write one request a line or delete it."]
        assert len(done.trace) == 1


def test_limit_below_the_output_is_named():
    text = "arrival_us,prompt_tokens,output_tokens,max_new_tokens\n0,5,9,8\n0,5,9,9\n"
    done = upload.read("x.csv", text.encode())
    assert done.problems == [
        "Row 2, column max_new_tokens: '8' is below the output: write a limit that the answer kept."
    ]
    assert len(done.trace) == 1


def test_listing_of_bad_rows_is_capped_and_counted():
    done = upload.read("x.csv", (HEADER + "0,1,x\n" * 1234 + "0,1,1\n").encode())
    assert len(done.problems) == cells.LISTED + 1
    assert done.problems[0].startswith("Row 2, ") and done.problems[19].startswith("Row 21, ")
    assert done.problems[-1].startswith("1,214 more rows were left out")
    assert len(done.trace) == 1


def test_row_numbers_count_blank_lines():
    done = upload.read("x.csv", ("\n\n" + HEADER + "\n0,1,1\n0,1,x\n").encode())
    assert done.problems[0].startswith("Row 6, ")


# --- files that are refused


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \n ", "the file is empty"),
        (b"\x1f\x8b\x08\x00", "the file is compressed: upload the CSV or JSON itself"),
        (b"PK\x03\x04", "the file is a zip archive or a spreadsheet"),
        ("a,b".encode("utf-16"), "the file is UTF-16 text: save it as UTF-8"),
        ("arrivée,x".encode("latin-1"), "byte 6 of the file is not UTF-8 text"),
        (b"x" * 10_000_001, "the file has 10,000,001 bytes; at most 10,000,000 are read"),
        (b"a," * 1_000_000, "the first line has 1,000,001 columns; at most 1,000 are read"),
        (b"hello\n", "one column must say when requests arrive: map one of arrival_us"),
        (b"arrival_ms,arrival_s,prompt_tokens,output_tokens\n1,1,1,1\n", "one column must say when requests arrive"),
        (b"arrival_ms,prompt_tokens\n1,1\n", "no column is known to hold output_tokens"),
        (
            b"arrival_ms,prompt_tokens,prompt_tokens,output_tokens\n",
            "column 'prompt_tokens' for prompt_tokens appears more",
        ),
        (HEADER.encode(), "no request in it could be read"),
        (HEADER.encode() + b'0,1,"' + b"x" * 200_000, "row 2 is not CSV (field larger than field limit (131072))"),
        (b"[" * 100_000, "the JSON is nested too deeply"),
        (b'{"a": ' * 100_000, "the JSON is nested too deeply"),
        (b"{}", "the JSON is neither a result of"),
        (b'{"input_lens": ' + b"9" * 5000 + b"}", "a number in the JSON has thousands of digits"),
        (b'{\n"input_lens": [1,\n}', "line 3 of the JSON is broken"),
        (b"[]", "no request in it could be read"),
        (json.dumps(run(input_lens=..., output_lens=...)).encode(), "the benchmark result has no lengths"),
        (json.dumps(run(output_lens=[1])).encode(), "input_lens, output_lens, start_times, errors of the benchmark"),
        (json.dumps(run(input_lens=7)).encode(), "input_lens, output_lens, start_times, errors of the benchmark"),
        (json.dumps(run(input_lens=0)).encode(), "input_lens, output_lens, start_times, errors of the benchmark"),
    ],
    ids=lambda v: repr(v[:24]) if isinstance(v, bytes) else None,
)
def test_file_is_refused_in_one_sentence(data, said):
    problem = only_problem(data)
    assert problem.startswith(f"file.csv: {said}") and problem.endswith(".") and len(problem) < 500


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"arrival_ms": "a", "prompt_tokens": "b", "output_tokens": "z"}, "column 'z' for output_tokens is not there"),
        ({"when": "a"}, "the mapping names 'when', which is no field"),
        ({}, "one column must say when requests arrive"),
        ({"arrival_ms": "a", "prompt_tokens": "b"}, "no column is known to hold output_tokens"),
        ({"arrival_ms": None, "prompt_tokens": "b", "output_tokens": "b"}, "column None for arrival_ms is not there"),
    ],
)
def test_wrong_mapping_is_a_sentence(mapping, said):
    problem = only_problem(b"a,b\n1,2\n", mapping)
    assert said in problem and ("; the file has 'a', 'b'." in problem or "no field" in problem)


def test_name_of_the_file_is_cut_and_printable():
    problem = upload.read("a\n" * 500, b"").problems[0]
    assert problem.startswith("a�a�") and "\n" not in problem and len(problem) < 120


def test_only_so_many_rows_are_read():
    for data in ((HEADER + "0,1,1\n" * 4).encode(), lines(*[turn(0, 1, 1)] * 4)):
        done = good(data, most_rows=3)
        assert len(done.trace) == 3
        assert done.notes == ["Only the first 3 rows were read; the file has more."]
        assert good(data.rsplit(b"\n", 1 + data.endswith(b"\n"))[0], most_rows=3).notes == []
    four = dict(input_lens=[1] * 4, output_lens=[1] * 4, start_times=[1.0] * 4, errors=[])
    assert len(good(json.dumps(run(**four)).encode(), most_rows=3).trace) == 3


def test_few_lines_cannot_ask_for_all_the_memory():
    done = good(lines(*[turn(0, 4000, 1, list(range(8)))] * 10), most_blocks=1000)
    assert len(done.trace) == 4
    assert "Only the first 4 rows were read; together they may have 1,000 blocks" in done.notes[0]


CELL = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(max_size=6),
    st.sampled_from(["", '"', "=1", "1"]),
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def check(data, mapping=None):
    done = upload.read("x", data, mapping)
    assert done.trace is not None or done.problems
    assert all(p.endswith(".") and "\n" not in p and len(p) < 900 for p in done.problems)


@given(st.binary(max_size=200))
@example(b"\r")
@example(b"\x00")
@example(b"{\x00}")
@example(b"\x1c")
def test_any_bytes_give_a_sentence(data):
    check(data)
    check(HEADER.encode() + data)
    check(b"{" + data)


@given(st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=5), st.sampled_from(["azure", "csv", "mapped"]))
def test_any_cells_give_a_sentence(rows, kind):
    head = AZURE.split(b"\n")[0].decode() if kind == "azure" else HEADER.strip()
    text = "\n".join([head, *(",".join(row) for row in rows)])
    columns = dict(zip(("arrival_us", "prompt_tokens", "output_tokens"), head.split(","), strict=True))
    check(text.encode("utf-8", "replace"), columns if kind == "mapped" else None)


@given(VALUE, VALUE, VALUE, VALUE)
def test_any_json_gives_a_sentence(a, b, c, d):
    check(lines(turn(0, 1, 1), turn(a, b, c, d)))
    check(lines(turn(0, b, 1, d)))
    check(json.dumps(a).encode())
    check(json.dumps(run(input_lens=a, output_lens=b, start_times=c, errors=d)).encode())
    check(json.dumps(run(input_lens=[a] * 3, output_lens=[b] * 3, start_times=[c] * 3, errors=[d] * 3)).encode())
    check(json.dumps(run(start_times=..., request_rate=a, burstiness=b, max_concurrency=c)).encode())


# --- real files


def raw(name):
    path = SHARED / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip("the source traces (../shared/data/traces) are not on this machine")
    return gzip.decompress(path.read_bytes())


@pytest.mark.parametrize(("name", "n", "mean"), [("azure_conv_a", 7869, 1191), ("azure_code_a", 4827, 2049)])
def test_azure_windows_are_read_as_plain_csv(name, n, mean):
    trace = good(raw(name)).trace
    assert len(trace) == n and trace.prompt_tokens.mean() == pytest.approx(mean, abs=1)
    assert trace.arrival_us.max() == pytest.approx(1500e6, rel=0.01)


@pytest.mark.parametrize(("name", "share"), [("mooncake_conversation_a", 0.3395), ("mooncake_synthetic_a", 0.3221)])
def test_mooncake_windows_have_the_published_reuse(name, share):
    """The source's figure counts matched partial blocks in full; whole blocks of 16 lose up to 15 tokens a request."""
    rows = list(csv.DictReader(io.StringIO(raw(name).decode())))
    entries = [
        turn(
            int(r["arrival_ms"]),
            int(r["prompt_tokens"]),
            int(r["output_tokens"]),
            [int(h) for h in r["block_hashes"].split()],
        )
        for r in rows
    ]
    done = good(lines(*entries))
    assert len(done.trace) == len(rows)
    assert parents_differ(done.trace.block_hashes) == 0
    assert len(done.notes) == (name == "mooncake_conversation_a")  # its clock ticks every 3 seconds
    lost = 16 / done.trace.prompt_tokens.mean()
    assert share - lost <= prefixes.reused_share(done.trace) <= share + 0.0001
