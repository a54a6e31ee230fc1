"""Preempt who has answered least."""

from engine.policy import Keys, View, policy


@policy("least_progress", name="Least progress", decides="victim", knows="online")
def least_progress(view: View) -> Keys:
    """Preempt the fewest output tokens so far, of equals the longer prompt (SGLang `retract_decode`).

    The prompt counts 2^-31 a token: less than one output token, and exact in a double up to 4 million of those.
    """
    return Keys(base=-view.rows.prompt_tokens / 2.0**31, per_token=1.0)
