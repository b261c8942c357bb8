"""cambox: turn image classification datasets into detector training data."""

__version__ = "0.2.0"
