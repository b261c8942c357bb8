"""An output in the formats that detectors are trained from: one file a format."""
