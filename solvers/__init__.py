"""Optimisation: bounds, prices and the rules derived from them. Importing it registers the LP-derived rules."""

from engine.policy import import_folder
from solvers import policies
from solvers.model import LPResult

import_folder(policies)

__all__ = ["LPResult"]
