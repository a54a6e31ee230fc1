"""Make traces: the only random numbers of the project, from a seed, never from a clock.

`scenario` and `generate` give the named workloads. Under them lie small functions over seeded generators (`streams`)
that compose: `arrivals`, `lengths`, `prefixes`, `conversations`, `predictions`; `upload` reads a file into a trace.

from engine.workload import arrivals, lengths, streams
when, prompts, outputs = streams(seed=0, count=3)
at = arrivals.microseconds(arrivals.renewal(rate=8, duration_s=60, cv=2, stream=when))
prompt, output = lengths.shaped("chat", len(at), prompts, outputs)
trace = engine.Trace(arrival_us=at, prompt_tokens=prompt, output_tokens=output)
"""

from engine.workload import arrivals, conversations, lengths, predictions, prefixes, upload
from engine.workload.catalogue import (
    AGENT_TURN,
    CHAT,
    CHAT_TURNS,
    CLASSES,
    DOCUMENT,
    LONG_REPORT,
    LOOP_TURNS,
    Scenario,
    every_scenario,
    generate,
    scenario,
    scenarios,
)
from engine.workload.draws import streams
from engine.workload.predictions import predict

__all__ = [
    "AGENT_TURN",
    "CHAT",
    "CHAT_TURNS",
    "CLASSES",
    "DOCUMENT",
    "LONG_REPORT",
    "LOOP_TURNS",
    "Scenario",
    "arrivals",
    "conversations",
    "every_scenario",
    "generate",
    "lengths",
    "predict",
    "predictions",
    "prefixes",
    "scenario",
    "scenarios",
    "streams",
    "upload",
]
