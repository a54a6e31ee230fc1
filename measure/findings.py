"""What the prices do and why, measured on this engine: four findings, a figure each (assets/evidence/findings.json).

    python -m measure.findings          measure all (minutes), store them
"""
