"""A hundred thousand inputs, the same on every run: seeds from a corpus, changed at random.

Run it by itself: `.venv/bin/python -m pytest tests/fuzz`.
"""
