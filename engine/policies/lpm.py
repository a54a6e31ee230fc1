"""Longest prefix match."""

from engine.policy import Keys, View, policy

MOST_WAITING = 128
"""With a longer line SGLang does not look at the cache at all."""


@policy("lpm", name="Longest prefix match", decides="order", knows="online", refresh="each_step")
def lpm(view: View) -> Keys:
    """Serve the most cached tokens first; by arrival while more than 128 wait (SGLang `lpm`, schedule_policy.py).

    Left out: SGLang also puts off a request whose first 32 tokens another one is about to compute. A rule sees how much
    of a prompt is cached, but not which prompts are alike.
    """
    rows = view.rows
    if len(view.waiting) > MOST_WAITING:
        return Keys()
    return Keys(base=rows.uncached_tokens - rows.prompt_tokens - rows.done_tokens)
