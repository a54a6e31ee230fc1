"""Shadow prices: the linear program behind it all, live."""

from __future__ import annotations

from ui import controls, price_views

note = price_views.settle()
controls.say(note, "", "prices")
price_views.stage()
