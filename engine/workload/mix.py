"""Named streams of requests laid over each other, as a scenario of kind `mix` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.records import Ints, Trace
from engine.workload import arrivals, lengths, prefixes
from engine.workload.draws import streams as generators
from engine.workload.predictions import client_limits, predict


@dataclass(frozen=True)
class Stream:
    """Hold one stream: who, when, how long, and what its prompts begin with.

    `of`: name of the request class. `share`: part of the scenario's arrival rate, with Gamma gaps of variation `cv`;
    or `at_s`: fixed instants in s, whatever the load. `prompt`, `output`: (median tokens, sigma of the logarithm) of
    lognormal lengths; a prompt's is its own part, after `prefix_tokens` that it shares with others: one of `prefixes`
    beginnings, drawn by Zipf's law with exponent `zipf`.
    """

    of: str
    prompt: tuple[float, float]
    output: tuple[float, float]
    share: float = 0.0
    at_s: tuple[float, ...] = ()
    cv: float = 1.0
    prefix_tokens: int = 0
    prefixes: int = 1
    zipf: float = 1.0

    def __post_init__(self) -> None:
        if (self.share > 0.0) == bool(self.at_s):
            raise ValueError(f"the stream of {self.of!r} needs either a share above 0 or instants in at_s.")


def draw(
    made_of: Sequence[Stream], classes: Sequence[str], rate: float, duration_s: float, sigma: float, seed: int
) -> Trace:
    """Return the requests of all streams in order of arrival.

    Draws are common: another rate is the same draws with time stretched, another sigma the same errors scaled.
    """
    columns: list[Ints] = []
    paths = 0
    for number, own in enumerate(made_of):
        drawn = generators(seed, 8 * len(made_of))[8 * number : 8 * number + 8]
        at = np.array([s for s in own.at_s if s < duration_s])
        if own.share:
            at = arrivals.renewal(rate * own.share, duration_s, own.cv, drawn[0])
        n = len(at)
        private = lengths.lognormal(*own.prompt, n, drawn[1])
        output = lengths.lognormal(*own.output, n, drawn[2])
        node = paths + prefixes.zipf(own.prefixes, own.zipf, n, drawn[3])
        paths += own.prefixes
        columns.append(
            np.stack(
                [
                    arrivals.microseconds(at),
                    private + own.prefix_tokens,
                    output,
                    predict(output, sigma, drawn[4]),
                    client_limits(output, drawn[5]),
                    np.full(n, classes.index(own.of)),
                    node,
                    np.full(n, own.prefix_tokens),
                ]
            )
        )
    at_us, prompt, output, predicted, limits, of, node, shared = np.concatenate(columns, axis=1)
    order = np.argsort(at_us, kind="stable")
    at_us, prompt, output, predicted, limits, of, node, shared = (
        column[order] for column in (at_us, prompt, output, predicted, limits, of, node, shared)
    )
    path = prefixes.Path(node[:, None], shared[:, None])
    return Trace(
        arrival_us=at_us,
        prompt_tokens=prompt,
        output_tokens=output,
        predicted_tokens=predicted,
        max_new_tokens=limits,
        class_id=of,
        block_hashes=prefixes.identities(path, np.arange(len(node)), prompt + output),
    )
