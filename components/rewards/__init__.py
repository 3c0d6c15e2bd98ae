"""Rewards: one protocol (types.py), rule verifiers (`open_scorer`), and what they are made of."""
