"""Keep nothing on purpose."""

from engine.policy import Keys, View, policy


@policy("none", name="No pins", decides="pin", knows="online")
def none(view: View) -> Keys:
    """Pin nothing: what a finished answer leaves competes with all other cached blocks (vLLM, SGLang)."""
    return Keys()
