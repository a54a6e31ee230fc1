"""Plausible Results from a crude toy server, so that the log and the player can be tested without the engine.

Not the model: fixed step time law, chunked prefill, prefix reuse inside a session, recompute preemption, LRU or
first-idle eviction. Its numbers mean nothing.
"""

from __future__ import annotations

import random
from collections import OrderedDict

import numpy as np

from engine.records import (
    ADMIT,
    EVICT,
    FINISH,
    FINISHED,
    FREE,
    HIT,
    IDLE,
    MOVE_DTYPE,
    PREEMPT,
    PRICE_DTYPE,
    REQUEST_DTYPE,
    STEP_DTYPE,
    TAKE,
    BlockEvents,
    Profile,
    Result,
    Rulebook,
    Settings,
    Trace,
)

PROFILE = Profile("toy", t0_ps=12_000_000_000, per_token_ps=120_000_000)


def trace(requests: int = 500, seconds: float = 110.0, seed: int = 3) -> Trace:
    """Return chats, agent turns, reports and documents with arrivals over `seconds`."""
    rng = random.Random(seed)
    arrival = sorted(rng.random() * seconds * 1e6 for _ in range(requests))
    shapes = [(250, 180, 0.55), (1500, 60, 0.25), (300, 600, 0.12), (6500, 120, 0.08)]
    kinds = rng.choices(range(4), [s[2] for s in shapes], k=requests)
    prompt = [max(8, int(rng.lognormvariate(0, 0.5) * shapes[k][0])) for k in kinds]
    output = [max(4, int(rng.lognormvariate(0, 0.6) * shapes[k][1])) for k in kinds]
    session = [rng.randrange(12) if k == 1 else -1 for k in kinds]
    return Trace(np.array(arrival, np.int64), prompt, output, class_id=kinds, session=session)


def run(
    load: Trace, order: str = "fcfs", *, blocks: int = 2588, budget: int = 2048, seqs: int = 256, name: str = ""
) -> Result:
    """Serve the trace in `fcfs` order, or by least prompt + output (`short`), with made-up prices for `lp`."""
    n = len(load)
    prompt, output = load.prompt_tokens.tolist(), load.output_tokens.tolist()
    session = load.session.tolist() if load.session is not None else [-1] * n
    free = list(range(blocks - 1, 0, -1))
    idle: OrderedDict[int, int] = OrderedDict()
    prefix: dict[int, list[int]] = {}
    users = [0] * (blocks + 1)
    held: list[list[int]] = [[] for _ in range(n)]
    computed, done = [0] * n, [0] * n
    requests = np.zeros(n, REQUEST_DTYPE)
    requests["arrival_us"] = load.arrival_us
    requests["first_scheduled_us"] = requests["first_token_us"] = requests["finish_us"] = -1
    waiting: list[int] = []
    running: list[int] = []
    steps, moves, prices = [], [], []
    events: list[tuple[int, int, int]] = []
    offsets = [0]
    t, came, left = 0, 0, n
    evicted = 0

    def take(i: int) -> bool:
        nonlocal evicted
        if free:
            b = free.pop()
        elif idle:
            b, old = idle.popitem(last=False)
            events.append((b, old, EVICT))
            evicted += 1
            for chain in prefix.values():
                if b in chain:
                    del chain[chain.index(b) :]
        else:
            return False
        users[b] = 1
        held[i].append(b)
        events.append((b, i, TAKE))
        return True

    def release(i: int) -> None:
        for b in reversed(held[i]):
            users[b] -= 1
            if users[b] == 0:
                if session[i] >= 0 and b in prefix.get(session[i], []):
                    idle[b] = i
                    events.append((b, i, IDLE))
                else:
                    free.append(b)
                    events.append((b, i, FREE))
        held[i] = []

    while left:
        while came < n and load.arrival_us[came] <= t:
            waiting.append(came)
            came += 1
        if not running and not waiting:
            t = int(load.arrival_us[came])
            continue
        if order != "fcfs":
            waiting.sort(
                key=lambda i: (not (t - load.arrival_us[i] > 40e6), prompt[i] + (output[i] if order == "lp" else 0))
            )
        step, tokens, decodes, hits, stopped = len(steps), 0, 0, 0, 0
        evicted = 0
        plan: list[tuple[int, int]] = []
        for i in list(running):
            if i not in running:
                continue
            goal = prompt[i] + done[i]
            new = min(goal - computed[i], budget - tokens)
            while new > 0 and len(held[i]) * 16 < computed[i] + new:
                if not take(i):
                    victim = running.pop()
                    release(victim)
                    plan = [p for p in plan if p[0] != victim]
                    moves.append((step, victim, PREEMPT, computed[victim]))
                    computed[victim] = 0
                    requests["preemptions"][victim] += 1
                    waiting.insert(0, victim)
                    stopped += 1
                    if victim == i:
                        new = 0
            if new > 0:
                plan.append((i, new))
                tokens += new
        while waiting and tokens < budget and len(running) < seqs and not stopped:
            i = waiting[0]
            shared = [b for b in prefix.get(session[i], []) if (len(prefix[session[i]])) * 16 < prompt[i]]
            need = -(-(prompt[i] + done[i]) // 16) - len(shared)
            if need > len(free) + len(idle) - sum(b in idle for b in shared):
                break
            waiting.pop(0)
            for b in shared:
                idle.pop(b, None)
                users[b] += 1
                held[i].append(b)
                events.append((b, i, HIT))
            computed[i] = 16 * len(shared)
            hits += computed[i]
            requests["cached_tokens"][i] += computed[i]
            moves.append((step, i, ADMIT, computed[i]))
            running.append(i)
            if requests["first_scheduled_us"][i] < 0:
                requests["first_scheduled_us"][i] = t
            new = min(prompt[i] + done[i] - computed[i], budget - tokens)
            while len(held[i]) * 16 < computed[i] + new:
                if not take(i):
                    break
            new = min(new, len(held[i]) * 16 - computed[i])
            plan.append((i, new))
            tokens += new
        decodes = sum(1 for i, new in plan if new == 1 and computed[i] >= prompt[i])
        lasts = (PROFILE.t0_ps + PROFILE.per_token_ps * tokens) // 1_000_000
        steps.append(
            (t, lasts, tokens, decodes, 0, len(running), len(waiting), len(free) + len(idle), stopped, hits, evicted)
        )
        if order == "lp" and step % 40 == 0:
            pressure = 1 - (len(free) + len(idle)) / blocks
            prices.append(
                (t, max(0.0, pressure - 0.9) * 14 * (1 + 0.1 * len(waiting) / 40), max(0.0, len(waiting) / 25 - 0.4))
            )
        t += lasts
        for i, new in plan:
            computed[i] += new
            if computed[i] < prompt[i] + done[i]:
                continue
            done[i] += 1
            if done[i] == 1:
                requests["first_token_us"][i] = t
            if done[i] >= output[i]:
                if session[i] >= 0:
                    prefix[session[i]] = held[i][: min(prompt[i] // 16, 40)]
                running.remove(i)
                moves.append((step, i, FINISH, computed[i]))
                release(i)
                requests["finish_us"][i] = t
                requests["status"][i] = FINISHED
                left -= 1
        offsets.append(len(events))
    table = np.array(events, np.int64).reshape(-1, 3)
    return Result(
        requests=requests,
        steps=np.array(steps, STEP_DTYPE),
        scheduled=None,
        settings=Settings(seqs, budget, blocks),
        profile=PROFILE,
        rulebook=Rulebook(name or order, name or order),
        moves=np.array(moves, MOVE_DTYPE),
        blocks=BlockEvents(
            np.array(offsets, np.int64),
            table[:, 0].astype(np.int32),
            table[:, 1].astype(np.int32),
            table[:, 2].astype(np.int8),
        ),
        prices=np.array(prices, PRICE_DTYPE),
    )


def race() -> tuple[Trace, list[Result]]:
    """Return the default race: three lanes of about 130 s."""
    load = trace()
    return load, [run(load, order) for order in ("fcfs", "short", "lp")]
