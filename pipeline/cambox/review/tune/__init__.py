"""``cambox tune``: settings and a calibration, chosen with a few hundred true boxes."""
