"""Your turn: schedule eight requests by hand, then see what rules, prices and the optimum do with them."""

from __future__ import annotations

from ui import challenge_views, text

text.show("challenge/claim")
challenge_views.stage()
