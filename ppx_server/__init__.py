"""PPX: the protocol through which a controller records and controls every random draw of a simulator.

Import from the modules: `protocol` (sans-I/O), `distributions`, `script`, `trace`, `store`, `executor`.
"""
