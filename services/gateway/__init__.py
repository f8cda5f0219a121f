"""The public HTTP API: keys, metering, prompts, and routing to the serving versions.

The gateway calls the engine over the V2 protocol only. It computes the serving versions from the
releases and the reports of the replicas. This module imports nothing, so that the command line can
use the key store without loading a web framework.
"""
