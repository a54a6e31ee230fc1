"""Calibration: where the milliseconds come from, and how far to trust them."""

from __future__ import annotations

from ui import calibration_views, controls, text

note = calibration_views.settle()
text.show("calibration/claim")
controls.say(note, "", "calibration")
calibration_views.head()
calibration_views.question()
calibration_views.reading()
calibration_views.closing()
