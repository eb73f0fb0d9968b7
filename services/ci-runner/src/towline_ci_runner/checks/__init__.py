"""The built-in checks, which every candidate passes through: `configuration` and `lint`.

`run` is outside; what stands beside it works in jailed processes on hostile content and holds no credential.
"""
