"""The public door: keys, metering, trigger words and styles, routing to the version that serves.

It reaches the engine only over the V2 protocol and learns what serves from the releases and the
replicas' own reports. Nothing is imported here, so that the command line can use the key store
without loading a web framework.
"""
