"""A step simulator of an LLM server, faithful to vLLM V1 and calibrated on measured GPUs.

import engine
trace = engine.Trace(arrival_us=[0, 0], prompt_tokens=[900, 40], output_tokens=[20, 20])
book, profile = engine.rulebooks.load("vllm_v1"), engine.profiles.load("h100-sxm-80g_llama-3.1-8b_tp1")
result = engine.simulate(trace, engine.Settings(256, 2048, 2588), profile, book)
"""

from engine import policies, policy, profiles, rulebooks, workload
from engine.policy import import_folder
from engine.records import Profile, Result, Rulebook, Settings, Trace
from engine.simulate import simulate

import_folder(policies)

__all__ = [
    "Profile",
    "Result",
    "Rulebook",
    "Settings",
    "Trace",
    "policies",
    "policy",
    "profiles",
    "rulebooks",
    "simulate",
    "workload",
]
